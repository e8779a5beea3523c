"""Every test that takes ``host`` runs against the bundled host and, if there is a checkout, against EPyMARL."""

import cloudpickle
import pytest

from lolm_plugin.host import open_host, register
from lolm_plugin.paths import locate

from . import fakes

# Workers that are not forked get the fakes by value, without the imports of this module.
cloudpickle.register_pickle_by_value(fakes)

CHECKOUT = locate(None)
PATHS = {"bundled": None} if CHECKOUT is None else {"bundled": None, "EPyMARL": CHECKOUT}


@pytest.fixture(scope="session", params=PATHS)
def host(request):
    host = open_host(PATHS[request.param])
    register(host)
    return host


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    files = getattr(item.module, "FILES", None)
    if report.failed and host is not None and files is not None:
        report.sections.append(("Contract broken by", f"{host.name}: {host.path / files[host.name]}"))
    return report


def pytest_terminal_summary(terminalreporter):
    tested = "bundled host and EPyMARL at " + str(CHECKOUT) if CHECKOUT else "only the bundled host (no checkout)"
    terminalreporter.write_line(f"contract: {tested}")
