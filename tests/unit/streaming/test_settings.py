"""Settings: read once, typed, and refused with the name of the variable that is wrong."""

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DefinitionError
from streaming import settings
from streaming.settings import Settings, home_folder, read, shown, unknown


@given(
    st.builds(
        Settings,
        home=st.just(Path("millrace home").absolute()),
        kafka=st.sampled_from([None, "broker:9092", "a:1,b:2"]),
        redis=st.sampled_from([None, "redis://:secret@cache:6379/3", "rediss://cache:6380/0"]),
        flink=st.sampled_from([None, "http://cluster:8081"]),
        taskmanagers=st.integers(1, 64),
        heap=st.integers(256, 262_144),
        checkpoint=st.integers(100, 3_600_000),
        buffer_timeout=st.integers(0, 10_000),
        delivery=st.sampled_from(["at-least-once", "exactly-once"]),
        metrics_port=st.integers(0, 65_535),
    )
)
def test_a_child_process_reads_the_same_settings(chosen: Settings) -> None:
    """If this fails, a TaskManager works with other settings than the command that started it."""
    assert read(chosen.environment()) == chosen


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("MILLRACE_KAFKA", "localhost", "host:port"),
        ("MILLRACE_KAFKA", "http://localhost:9092", "host:port"),
        ("MILLRACE_REDIS", "localhost:6379", "redis://"),
        ("MILLRACE_REDIS", "redis://localhost:abc/0", "redis://"),
        ("MILLRACE_FLINK", "localhost:8081", "http://"),
        ("MILLRACE_TASKMANAGERS", "0", "from 1 to 64"),
        ("MILLRACE_TASKMANAGERS", "two", "from 1 to 64"),
        ("MILLRACE_CHECKPOINT", "1s", "whole number"),
        ("MILLRACE_DELIVERY", "sometimes", "at-least-once or exactly-once"),
        ("MILLRACE_METRICS_PORT", "65536", "to 65535"),
    ],
)
def test_a_malformed_value_is_refused_by_name(variable: str, text: str, expected: str) -> None:
    """If this fails, a typing error in the environment starts something other than what was meant."""
    with pytest.raises(DefinitionError) as caught:
        read({variable: text})
    assert variable in str(caught.value)
    assert repr(text) in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://:secret@h:6379/0", "redis://:…@h:6379/0"),
        ("rediss://me:p%40s@h/1?a=b", "rediss://me:…@h/1?a=b"),
        ("redis://localhost", "redis://localhost"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
    ],
)
def test_a_password_is_not_told(url: str, told: str) -> None:
    """If this fails, it stands in a terminal and in logs; or a right URL is refused."""
    assert shown(read({"MILLRACE_REDIS": url}).redis or "") == told


def test_a_registry_is_a_folder_or_a_url(tmp_path: Path) -> None:
    """If this fails, a TaskManager, which runs elsewhere, follows another registry than the command that deployed."""
    assert read({"MILLRACE_REGISTRY": "models"}).models == str(Path("models").absolute())
    assert read({"MILLRACE_REGISTRY": "s3://bucket/models"}).models == "s3://bucket/models"
    assert Settings(home=tmp_path).models == str(tmp_path / "models")


def test_empty_means_unset() -> None:
    """If this fails, `MILLRACE_KAFKA= millrace up` tries to connect to nothing."""
    assert read({"MILLRACE_KAFKA": "", "MILLRACE_SLOTS": " "}) == read({})


def test_settings_are_frozen_and_folders_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, a service started from another folder writes elsewhere, or settings can change."""
    monkeypatch.chdir(tmp_path)
    chosen = Settings()
    assert chosen.home == tmp_path / ".millrace"
    assert "~" not in str(chosen.cache)
    with pytest.raises(FrozenInstanceError):
        chosen.batch = 1  # type: ignore[misc]


def test_home_is_found_from_a_folder_below(tmp_path: Path) -> None:
    """If this fails, `millrace status` in a sub-folder does not see the stack that runs."""
    (tmp_path / ".millrace").mkdir()
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert home_folder(tmp_path / "a" / "b") == tmp_path / ".millrace"


def test_misspelt_variables_are_known_as_such() -> None:
    """If this fails, doctor does not see that a setting is spelt wrongly and has no effect."""
    assert unknown({"MILLRACE_TASKMANAGER": "2", "MILLRACE_HEAP": "512", "PATH": "/bin"}) == [
        "MILLRACE_TASKMANAGER"
    ]


def test_every_setting_says_what_it_is() -> None:
    """If this fails, an error about a setting cannot explain it."""
    assert all(f.metadata["about"] and f.metadata["expected"] for f in fields(settings.Settings))
