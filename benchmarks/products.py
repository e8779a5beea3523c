"""Which library and which precision multiplies a model's own layer shapes fastest on this CPU, and what that costs.

    python -m benchmarks.products [--model smollm2-135m] [--tokens 1024] [--threads 2]

Prints the rates, and how far the final states are from those in float32 when all linear layers are dynamically
quantised to int8. The engine takes the faster library in float32 by itself (``lolm_plugin/llm/matmul.py``);
int8 it does not take, as it has no gradient: the policy that plays would be another one than the policy that learns.
"""

import argparse
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.timing import alternate
from lolm_plugin import tuning
from lolm_plugin.llm.matmul import onednn
from lolm_plugin.llm.sources import resolve

REPEATS = 7
PROMPT = (
    "You are ally 1, a stalker, health 0.75, shield 0.50. Enemy 0 is a zealot at distance 3.33. The best action is:"
)


def quantised(layers: nn.Module) -> nn.Module:
    """A copy whose linear layers are int8, their inputs quantised as they come."""
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this moves to another package
        return quantize_dynamic(layers, {nn.Linear}, dtype=torch.qint8)


def rates(shape: tuple[int, int], tokens: int) -> dict[str, float]:
    """GFLOP/s of [tokens, in] times [in, out], shape (out, in), by name."""
    weight, x = torch.randn(shape), torch.randn(tokens, shape[1])
    layer = nn.Linear(shape[1], shape[0], bias=False)
    int8, low, low_weight = quantised(nn.Sequential(layer)), x.bfloat16(), weight.bfloat16()
    ways: dict[str, Callable[[], Tensor]] = {
        "torch float32": lambda: functional.linear(x, weight),
        "oneDNN float32": lambda: onednn(x, weight, None),
        "torch bfloat16": lambda: functional.linear(low, low_weight),
        "torch int8": lambda: int8(x),
    }
    alternate(ways, 1)
    return {name: 2e-9 * weight.numel() * tokens / taken for name, taken in alternate(ways, REPEATS).items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=tuning.threads("language models"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = resolve(options.model)
    model = source.load_model(None, torch.float32, True, 0)
    shapes = sorted({tuple(m.weight.shape) for m in model.layers.modules() if isinstance(m, nn.Linear)})
    with torch.no_grad():
        for number, shape in enumerate(shapes):
            found = rates(shape, options.tokens)
            if not number:
                print(f"| GFLOP/s, {options.tokens} tokens | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
            print(f"| {shape[1]} to {shape[0]} | {' | '.join(f'{rate:.0f}' for rate in found.values())} |")
        ids = torch.tensor([source.load_tokenizer()(PROMPT)["input_ids"]])
        exact, rough = (m(input_ids=ids, use_cache=False).last_hidden_state for m in (model, quantised(model)))
    error = float((rough - exact).norm() / exact.norm())
    print(f"int8: the final states of a prompt are {error:.0%} away from those in float32 (relative norm)")


if __name__ == "__main__":
    main()
