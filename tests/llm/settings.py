"""What a backbone is built from: the shipped sections, so that a new key needs no change in tests."""

from lolm_plugin.config_files import plugin_config_dir, read

_SHIPPED = read(plugin_config_dir() / "default.yaml")
LLM = {**_SHIPPED["llm"], "model": "tiny-llama"}
LORA = {**_SHIPPED["lora"], "rank": 4, "alpha": 8}
