"""Clones made with git alone, and addresses in other spellings, are what fetch goes on with."""

from __future__ import annotations

import pytest

from titan_neuro.cli import main
from titan_neuro.data.bids.annex import dataset_id, is_missing
from titan_neuro.data.fetch import fetch
from titan_neuro.data.fetch.address import is_url, parse_ria, same_place
from titan_neuro.errors import FetchError, OutputError, UsageError

ID = "4007c274-1f9a-46a3-9129-e6f6e91debe5"
TRACE = "400/7c274-1f9a-46a3-9129-e6f6e91debe5"


def bold(root):
    return sorted(root.glob("sub-*/func/*_bold.nii.gz"))


# ---- clones of a single branch -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [["--depth=1"], ["--single-branch"], ["--depth=1", "--no-single-branch"], ["--depth=1", "--origin=up"]]
)
def test_shallow_clones_are_fetched_into(synthetic, tmp_path, run, options):
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", *options, synthetic.as_uri(), "clone")
    assert fetch(str(clone), clone, dry_run=True).n_files_to_get == 6
    assert fetch(str(clone), clone, runs=["1"]).n_files_to_get == 4
    assert [is_missing(path) for path in bold(clone)] == [False, True, False, True]
    assert bold(clone)[0].read_bytes() == bold(synthetic)[0].read_bytes()
    # As a clone of its address, and of its path.
    if options[-1] != "--origin=up":
        assert fetch(synthetic.as_uri(), clone).n_files_to_get == 2
    assert fetch(str(synthetic), clone).n_files_to_get == (2 if options[-1] == "--origin=up" else 0)


def test_shallow_clones_that_git_annex_knows_are_completed(synthetic, tmp_path, run):
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", "--depth=1", synthetic.as_uri(), "clone")
    run(clone, "git", "annex", "init", "--quiet")
    assert fetch(str(clone), clone).n_files_to_get == 6
    assert not any(map(is_missing, bold(clone)))


def test_clones_without_locations_are_named(synthetic, tmp_path, run):
    """The source was cloned in the same way, and knows no more."""
    for source, name in ((synthetic, "first"), (tmp_path / "first", "second")):
        run(tmp_path, "git", "clone", "--quiet", "--depth=1", source.as_uri(), name)
    with pytest.raises(
        FetchError, match=r"clone of a single branch .*can't be fetched from origin: .*git-annex"
    ) as caught:
        fetch(str(tmp_path / "second"), tmp_path / "second")
    assert "titan-neuro fetch URL DIR" in caught.value.hint


# ---- spellings of an address -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "url", "version"),
    [
        (f"ria+file:///data/store#{ID}", f"file:///data/store/{TRACE}", None),
        (f"ria+file:///data/store/#{ID}@v1", f"file:///data/store/{TRACE}", "v1"),
        ("ria+file:///data/store//#~movies", "file:///data/store/alias/movies", None),
        ("ria+file:///a@b/store#~movies@1.0.2", "file:///a@b/store/alias/movies", "1.0.2"),
        ("ria+http://store.org#~movies", "http://store.org/alias/movies", None),
        ("ria+https://store.org:8080/x/#~movies@feature/y", "https://store.org:8080/x/alias/movies", "feature/y"),
        (f"ria+ssh://me@host:/data/store#{ID}", f"ssh://me@host:/data/store/{TRACE}", None),
        ("ria+ssh://host/~me/store#~movies", "ssh://host/~me/store/alias/movies", None),
    ],
)
def test_ria_addresses_are_parsed(address, url, version):
    ria = parse_ria(address)
    assert is_url(address) and (ria.url, ria.version) == (url, version)
    # DataLad agrees.
    from datalad.core.distributed.clone_utils import decode_source_spec

    decoded = decode_source_spec(address)
    assert same_place(decoded["giturl"], url) and decoded["version"] == version


@pytest.mark.parametrize("end", ["", "#", "#movies", "#~", f"#{ID[:-1]}", "#~a/b", f"/{ID}", f"#{ID}@"])
def test_ria_addresses_without_a_dataset_are_refused(tmp_path, capsys, end):
    address = f"ria+{(tmp_path / 'store').as_uri()}{end}"
    assert main(["fetch", address, str(tmp_path / "clone")]) == UsageError.exit_code
    message = capsys.readouterr().err
    assert address in message and "ria+SCHEME://STORE#ID" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://h.org/ds", "https://h.org/ds/"),
        ("https://h.org/ds", "https://h.org/ds/.git"),
        ("https://h.org/ds", "https://h.org//ds.git/"),
        ("git@h.org:me/ds", "git@h.org:me/ds.git"),
        ("/data/ds", "file:///data/ds/"),
        ("/data/my ds", "file://localhost/data/my%20ds/.git"),
        (f"ria+ssh://me@h:/s/#{ID}@v1", f"ssh://me@h/s/{TRACE}"),
        ("ria+https://h.org/s#~x", "ria+https://h.org/s/#~x@v2"),
    ],
)
def test_spellings_of_one_place_are_equal(one, other):
    assert same_place(one, other) and same_place(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://h.org/ds", "https://h.org/ds2"),
        ("https://h.org/ds", "http://h.org/ds"),
        ("ssh://h.org/ds", "ssh://h.org:22/ds"),
        ("/data/ds", "/data/ds/sub"),
        ("ria+https://h.org/s#~x", "ria+https://h.org/s#~y"),
        ("ria+https://h.org/s#~x", f"ria+https://h.org/s#{ID}"),
    ],
)
def test_other_places_differ(one, other):
    assert not same_place(one, other)


# ---- a real RIA store --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory, copy_synthetic, run):
    """A RIA store with a dataset under its id and the alias ``movies``; the tag ``v1`` is one commit back."""
    folder = tmp_path_factory.mktemp("ria")
    source, store = copy_synthetic(folder / "source", n_subjects=1, n_runs=2), folder / "store"
    sibling = ("create-sibling-ria", "--name=ria", "--alias=movies", "--new-store-ok", f"ria+{store.as_uri()}")
    run(source, "datalad", *sibling)
    run(source, "git", "tag", "v1")
    (source / "NOTES").write_text("later")
    run(source, "git", "add", "NOTES")
    run(source, "git", "commit", "--quiet", "--message=later")
    run(source, "datalad", "push", "--to=ria")
    run(source, "git", "push", "--quiet", "ria", "v1")
    run(store / "alias" / "movies", "git", "update-server-info")
    return store, dataset_id(source), [run(source, "git", "rev-parse", name) for name in ("v1", "HEAD")]


@pytest.mark.slow
def test_spellings_of_a_ria_address_are_recognized(store, tmp_path, run):
    root, name, (_, newest) = store
    address, clone = f"ria+{root.as_uri()}", tmp_path / "clone"
    assert fetch(f"{address}/#~movies", clone, runs=["2"]).commit == newest
    assert [is_missing(path) for path in bold(clone)] == [True, False]
    # Recognized by its address: the store, which is away now, is not asked.
    root.rename(root.with_name("away"))
    try:
        assert fetch(f"{address}#~movies", clone, runs=["2"]).n_files_to_get == 0
    finally:
        root.with_name("away").rename(root)
    for spelling in (
        f"{address}#{name}",
        f"{address}///#{name}",
        f"{root}/alias/movies",
        f"{root.as_uri()}/alias/movies",
    ):
        assert fetch(spelling, clone, runs=["2"]).n_files_to_get == 0
    with pytest.raises(FetchError, match="can't be cloned"):
        fetch(f"{address}#~nothing", tmp_path / "other")


@pytest.mark.slow
def test_versions_in_a_ria_store_are_fetched_over_http(store, tmp_path, serve, run):
    root, name, (tagged, newest) = store
    address, clone = f"ria+{serve(root.parent)}/{root.name}", tmp_path / "clone"
    assert fetch(f"{address}/#{name}@v1", clone, runs=["2"]).commit == tagged
    assert [is_missing(path) for path in bold(clone)] == [True, False]
    assert fetch(f"{address}#{name}@{tagged}", clone).n_files_to_get == 1
    with pytest.raises(OutputError, match=rf"is at commit {tagged}; expected the version main of the address"):
        fetch(f"{address}#{name}@main", clone)
    fetch(f"{address}#~movies", tmp_path / "newest", runs=["1"])
    with pytest.raises(OutputError, match=rf"is at commit {newest}; expected the version v1 .*Nothing was changed"):
        fetch(f"{address}#~movies@v1", tmp_path / "newest")
