import pytest

from helpers.assets import catalog
from helpers.errors import CourseError, InvalidValue


def test_every_wheel_of_the_catalogue_has_its_hash_and_every_asset_its_licence():
    for asset in catalog.load_catalog().values():
        assert asset.licence and asset.citation and asset.title and asset.sources
        assert set(asset.profiles) <= {"quick", "full"} and asset.profiles
        for source in asset.sources:
            assert source.take
            if source.kind == "wheel":
                assert len(source.sha256) == 64 and "==" in source.requirement
            else:
                assert source.repository.count("/") == 1


def test_the_quick_profile_needs_no_hub():
    for asset in catalog.load_catalog().values():
        if "quick" in asset.profiles:
            assert asset.sources[0].kind == "wheel"


def test_nothing_that_would_be_unpickled_is_fetched():
    for asset in catalog.load_catalog().values():
        for source in asset.sources:
            assert not any(path.endswith((".bin", ".pt", ".pkl", ".ckpt")) for path in source.take)


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(InvalidValue, match=r"unknown asset 'encodre'. Did you mean 'encoder'"):
        catalog.get("encodre")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a]\nkind = 'model'\n", "not complete"),
        (
            "[a]\nkind='model'\ntitle='t'\nsize_mb=1\nlicence='l'\ncitation='c'\nprofiles=[]\n"
            "[[a.sources]]\nkind='wheel'\nrequirment='a==1'\ntake=['a/']\n",
            "requirment",
        ),
    ],
)
def test_a_faulty_entry_is_named(tmp_path, text, complaint):
    path = tmp_path / "catalog.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CourseError, match=complaint):
        catalog.load_catalog(path)
