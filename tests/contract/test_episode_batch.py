import numpy as np
import pytest
import torch

FILES = {"bundled": "episode_batch.py", "EPyMARL": "src/components/episode_buffer.py"}

# EPyMARL's own indexing; see host/epymarl.py.
pytestmark = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")

SCHEME = {
    "obs": {"vshape": 3, "group": "agents"},
    "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
    "reward": {"vshape": (1,)},
    "terminated": {"vshape": (1,), "dtype": torch.uint8},
    "task": {"vshape": (2,), "episode_const": True},
}
GROUPS = {"agents": 2}
BATCH, TIME = 4, 5


class Tenfold:
    """Transform an integer to two floats: itself and ten times itself."""

    def transform(self, tensor):
        return torch.cat([tensor, 10 * tensor], dim=-1).float()

    def infer_output_info(self, vshape_in, dtype_in):
        assert vshape_in == (1,)
        assert dtype_in == torch.long
        return (2,), torch.float32


PREPROCESS = {"actions": ("actions_tenfold", [Tenfold()])}


@pytest.fixture
def batch(host):
    return host.EpisodeBatch(SCHEME, GROUPS, BATCH, TIME, preprocess=PREPROCESS)


def numbers(*shape):
    return torch.arange(float(np.prod(shape))).reshape(shape) + 1


def test_every_field_has_its_shape_dtype_and_zeros(batch):
    shapes = {
        "obs": (BATCH, TIME, 2, 3),
        "actions": (BATCH, TIME, 2, 1),
        "actions_tenfold": (BATCH, TIME, 2, 2),
        "reward": (BATCH, TIME, 1),
        "terminated": (BATCH, TIME, 1),
        "filled": (BATCH, TIME, 1),
        "task": (BATCH, 2),
    }
    assert set(batch.scheme) == set(shapes)
    for key, shape in shapes.items():
        assert batch[key].shape == shape, key
        assert not batch[key].any(), key
    assert batch["obs"].dtype == batch["actions_tenfold"].dtype == batch["task"].dtype == torch.float32
    assert batch["actions"].dtype == batch["filled"].dtype == torch.long
    assert batch["terminated"].dtype == torch.uint8
    assert (batch.batch_size, batch.max_seq_length, batch.device) == (BATCH, TIME, "cpu")


def test_scheme_includes_derived_fields_and_the_given_one_is_unchanged(batch):
    assert set(SCHEME) == {"obs", "actions", "reward", "terminated", "task"}
    assert batch.scheme["actions_tenfold"]["vshape"] == (2,)
    assert batch.scheme["actions_tenfold"]["group"] == "agents"
    assert batch.scheme["obs"]["vshape"] == 3


def test_filled_and_unknown_groups_are_refused(host):
    with pytest.raises(AssertionError, match="filled"):
        host.EpisodeBatch({"filled": {"vshape": 1}}, {}, 1, 1)
    with pytest.raises(AssertionError, match="crowd"):
        host.EpisodeBatch({"obs": {"vshape": 1, "group": "crowd"}}, {}, 1, 1)


def test_update_writes_lists_of_one_step_and_fills_it(batch):
    obs = [[np.full(3, 10 * row + agent) for agent in range(2)] for row in range(BATCH)]
    batch.update({"obs": obs, "reward": [(row,) for row in range(BATCH)]}, ts=2)
    assert batch["obs"][3, 2, 1].tolist() == [31, 31, 31]
    assert batch["reward"][:, 2, 0].tolist() == [0, 1, 2, 3]
    assert batch["filled"][:, :, 0].tolist() == [[0, 0, 1, 0, 0]] * BATCH
    assert batch["obs"].sum() == batch["obs"][:, 2].sum()


def test_update_writes_tensors_of_some_episodes_without_filling(batch):
    obs = numbers(2, 1, 2, 3)
    batch.update({"obs": obs}, bs=[3, 1], ts=slice(4, 5), mark_filled=False)
    assert torch.equal(batch["obs"][[3, 1], 4:5], obs)
    assert not batch["obs"][[0, 2]].any()
    assert not batch["filled"].any()


def test_update_fills_only_the_episodes_it_writes(batch):
    batch.update({"reward": numbers(2, 1)}, bs=[0, 2], ts=0)
    assert batch["filled"][:, 0, 0].tolist() == [1, 0, 1, 0]
    batch.update({"reward": numbers(1, 1)}, bs=3, ts=1)
    assert batch["filled"][:, 1, 0].tolist() == [0, 0, 0, 1]


def test_update_may_leave_out_dimensions_of_size_one(batch):
    batch.update({"actions": torch.tensor([[0, 2]] * BATCH).unsqueeze(1)}, ts=1)
    assert batch["actions"][:, 1, :, 0].tolist() == [[0, 2]] * BATCH


def test_update_keeps_derived_fields_up_to_date(batch):
    batch.update({"actions": torch.tensor([[1, 2], [3, 4]]).unsqueeze(1)}, bs=[1, 2], ts=3)
    assert batch["actions_tenfold"][2, 3].tolist() == [[3, 30], [4, 40]]
    assert batch["actions_tenfold"].sum() == 11 * 10


def test_update_of_a_field_that_is_constant_in_an_episode(batch):
    batch.update({"task": [[1.0, 2.0]] * BATCH}, mark_filled=True)
    assert batch["task"].tolist() == [[1.0, 2.0]] * BATCH
    assert not batch["filled"].any()


@pytest.mark.parametrize("shape", [(BATCH, 1, 3, 2), (BATCH, 1, 2, 4), (BATCH - 1, 1, 2, 3), (BATCH, 2, 2, 3)])
def test_a_wrong_shape_is_an_unsafe_reshape(batch, shape):
    with pytest.raises(ValueError, match="Unsafe reshape"):
        batch.update({"obs": torch.zeros(shape)}, ts=0)


def test_a_step_past_the_end_is_an_unsafe_reshape(batch):
    with pytest.raises(ValueError, match="Unsafe reshape"):
        batch.update({"reward": numbers(BATCH, 1)}, ts=TIME)


def test_unknown_fields_are_errors(batch):
    with pytest.raises(KeyError, match="wages"):
        batch.update({"wages": [0] * BATCH}, ts=0)
    with pytest.raises((KeyError, ValueError)):
        batch["wages"]
    with pytest.raises(KeyError, match="wages"):
        batch["obs", "wages"]


@pytest.mark.parametrize(
    ("item", "rows", "steps"),
    [
        (1, [1], [0, 1, 2, 3, 4]),
        (slice(1, 3), [1, 2], [0, 1, 2, 3, 4]),
        ([3, 0], [3, 0], [0, 1, 2, 3, 4]),
        (np.array([2, 2, 1]), [2, 2, 1], [0, 1, 2, 3, 4]),
        ((slice(None), slice(1, 4)), [0, 1, 2, 3], [1, 2, 3]),
        ((slice(None), slice(None, -1)), [0, 1, 2, 3], [0, 1, 2, 3]),
        ((2, 4), [2], [4]),
        (([1, 3], slice(0, 2)), [1, 3], [0, 1]),
        ((slice(None), slice(0, torch.tensor([3]))), [0, 1, 2, 3], [0, 1, 2]),
    ],
    ids=str,
)
def test_slicing_keeps_both_dimensions(batch, item, rows, steps):
    batch.update({"reward": numbers(BATCH, TIME, 1), "task": numbers(BATCH, 2)})
    part = batch[item]
    assert (part.batch_size, part.max_seq_length) == (len(rows), len(steps))
    assert torch.equal(part["reward"], batch["reward"][rows][:, steps])
    assert torch.equal(part["task"], batch["task"][rows])
    assert part["filled"].shape == (len(rows), len(steps), 1)
    assert set(part.scheme) == set(batch.scheme)


def test_slices_share_memory_and_lists_copy(batch):
    batch[0:1].update({"reward": numbers(1, 1)}, ts=0)
    assert batch["reward"][0, 0] == 1
    batch[[0]].update({"reward": 5 * numbers(1, 1)}, ts=0)
    assert batch["reward"][0, 0] == 1


def test_steps_must_be_contiguous(batch):
    with pytest.raises(IndexError, match="contiguous"):
        batch[:, [0, 2]]


def test_selecting_fields(batch):
    batch.update({"task": numbers(BATCH, 2)})
    part = batch["obs", "task"]
    assert set(part.scheme) == {"obs", "task"}
    assert part.groups == GROUPS
    assert torch.equal(part["task"], batch["task"])
    with pytest.raises((KeyError, ValueError)):
        part["reward"]


def test_longest_episode(batch):
    batch.update({"reward": numbers(1, 3, 1)}, bs=2, ts=slice(0, 3))
    batch.update({"reward": numbers(1, 1)}, bs=0, ts=0)
    assert batch.max_t_filled() == 3
    assert batch[:, : batch.max_t_filled()].max_seq_length == 3


def test_moving_to_a_device(batch):
    batch.to("meta")
    assert batch.device == "meta"
    assert {batch[key].device.type for key in batch.scheme} == {"meta"}
