"""Every result is on the disk before its name is, and its name before what follows: a power cut leaves nothing half."""

import disk_order
import forked
import pytest


def test_every_file_is_on_disk_before_its_name(tiny):
    log = tiny / "calls"
    assert disk_order.faults(log) == []
    written = {path.removeprefix(f"{tiny}/out/") for path in disk_order.renamed(log)}
    # All that is there was seen, also what lies in a folder that was renamed as a whole.
    missed = [
        name
        for name in (str(path.relative_to(tiny / "out")) for path in (tiny / "out").rglob("*") if path.is_file())
        if disk_order.is_kept(name) and not any(name == one or name.startswith(f"{one}/") for one in written)
    ]
    assert missed == []
    assert len(written) > 40


@pytest.mark.parametrize(
    ("how", "found"),
    [("atomic", []), ("in place", ["overwritten"]), ("no sync", ["unsynced", "renamed"]), ("no folder", ["renamed"])],
)
def test_the_order_of_calls_tells_what_is_not_safe(tmp_path, how, found):
    process = forked.CONTEXT.Process(
        target=disk_order.write_one, args=(tmp_path, tmp_path / ".calls.0123abcd.tmp", how)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [fault.split(" ")[0] for fault in disk_order.faults(tmp_path / ".calls.0123abcd.tmp")] == found
