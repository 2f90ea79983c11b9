"""Changed, damaged, truncated and missing data are noticed."""

import hashlib
import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import zarr
from store_example import NAME

from titan_neuro.data.store import RunStore, open_runs, write_run
from titan_neuro.errors import ImageError, InputNotFoundError, MismatchError


def test_checksums_follow_the_documentation(path, header, series):
    """Computed as another program would: with hashlib, json and zarr alone."""
    group = zarr.open_group(path, mode="r")
    attributes = dict(group.attrs)
    sums = attributes.pop("sha256")
    text = json.dumps(attributes, sort_keys=True, separators=(",", ":"))
    assert sums == {
        "series": hashlib.sha256(series.astype("<f2").tobytes()).hexdigest(),
        "scored": hashlib.sha256(bytes(header.scored.tolist())).hexdigest(),
        "mask": hashlib.sha256(bytes(header.space.mask.ravel().tolist())).hexdigest(),
        "framewise_displacement": hashlib.sha256(header.framewise_displacement.astype("<f4").tobytes()).hexdigest(),
        "attributes": hashlib.sha256(text.encode()).hexdigest(),
    }


def _rewrite(name):
    def change(path):
        array = zarr.open_group(path, mode="r+")[name]
        # Whole chunks with valid checksums of their own: only the store's checksum differs.
        values = array[:]
        array[:] = ~values if values.dtype == bool else values[::-1]

    return change


@pytest.mark.parametrize("name", ["series", "scored", "mask", "framewise_displacement"])
def test_verify_names_the_changed_array(sharded, name):
    expected = RunStore(sharded).sha256[name]
    _rewrite(name)(sharded)
    with pytest.raises(MismatchError, match=f"{name}: expected SHA-256 {expected}, found [0-9a-f]{{64}}") as caught:
        RunStore(sharded).verify()
    assert str(sharded) in caught.value.message


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"entities": {"subject": "01", "task": "x/../../elsewhere"}}, "entity 'task': 'x/../../elsewhere'"),
        ({"entities": {"subject": "..", "task": "x"}}, "entity 'subject': '..'"),
        ({"entities": {"subject": "01", "task": "a_b"}}, "entity 'task': 'a_b'"),
        ({"entities": {"subject": "01", "task": ""}}, "entity 'task': ''"),
        ({"entities": {"subject": "01", "a/b": "x"}}, "entity 'a/b': 'x'"),
        ({"entities": {"subject": 1}}, "entity 'subject': 1"),
        ({"key": "../sub-01"}, "key '../sub-01'"),
        ({"key": "a\\b"}, r"key 'a\\b'"),
    ],
)
def test_labels_that_are_no_labels_are_refused(tmp_path, header, series, changes, found):
    """Written by somebody else, with a valid checksum."""
    path = tmp_path / "store.zarr"
    write_run(path, replace(header, **changes), [series])
    with pytest.raises(MismatchError) as caught:
        RunStore(path)
    assert found in caught.value.message and str(path) in caught.value.message and caught.value.hint


def test_a_space_that_is_no_name_is_refused(tmp_path, header, series):
    write_run(tmp_path / "store.zarr", replace(header, space=replace(header.space, name="a/b")), [series])
    with pytest.raises(MismatchError, match="space 'a/b'"):
        RunStore(tmp_path / "store.zarr")


def test_changed_attributes_are_refused(path):
    text = (path / "zarr.json").read_text()
    assert text.count('"repetition_time": 1.5') == 1
    (path / "zarr.json").write_text(text.replace('"repetition_time": 1.5', '"repetition_time": 2.5'))
    with pytest.raises(MismatchError, match="attributes: expected SHA-256"):
        RunStore(path)


@pytest.mark.parametrize("place", [0.01, 0.3, 0.6, 0.99])
def test_flipped_bytes_are_noticed(sharded, series, place):
    shard = sharded / "series/c/1/0"
    content = bytearray(shard.read_bytes())
    content[int(place * len(content))] ^= 0x10
    shard.write_bytes(content)
    store = RunStore(sharded)
    assert np.array_equal(store.series(0, 40), series[:40].astype(np.float16))
    with pytest.raises(ImageError, match=r"time points 40 to 79 can't be read: .*") as caught:
        store.series(40, 80)
    assert str(sharded) in caught.value.message
    with pytest.raises(ImageError):
        store.verify()


@pytest.mark.parametrize("keep", [0, 10, 500, 0.9])
def test_truncated_shards_are_noticed(sharded, keep):
    shard = sharded / "series/c/1/0"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    for start, stop in ((40, 80), (75, 80)):
        with pytest.raises(
            ImageError, match=f"time points {start} to {stop - 1} can't be read|time point {start} is missing"
        ):
            RunStore(sharded).series(start, stop)


def test_missing_shards_are_not_read_as_zeros(sharded):
    (sharded / "series/c/1/0").unlink()
    with pytest.raises(ImageError, match="time point 40 is missing"):
        RunStore(sharded).series(35, 45)
    (sharded / "scored/c/0").unlink()
    with pytest.raises(MismatchError, match="scored: expected SHA-256"):
        _ = RunStore(sharded).scored


def test_a_kill_while_writing_leaves_no_store(tmp_path):
    script = """
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from titan_neuro.data.space import Space
        from titan_neuro.data.store import RunHeader, write_run
        space = Space(kind="parcels", name="x", parcels=tuple(map(str, range(100_000))))
        header = RunHeader(key="k", entities={}, repetition_time=1.0, space=space, scored=np.ones(1000, bool))
        def blocks():
            for _ in range(200):
                yield np.ones((1, 100_000))
            os.kill(os.getpid(), signal.SIGKILL)
        write_run(Path(sys.argv[1]), header, blocks())
    """
    path = tmp_path / NAME
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(path.parent.glob(".*.tmp/series/c/*"))
    with pytest.raises(InputNotFoundError):
        RunStore(path)
    with pytest.raises(InputNotFoundError, match="contains no prepared run"):
        open_runs(tmp_path)
