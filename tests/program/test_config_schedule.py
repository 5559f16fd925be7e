"""The schedule of attempts, read alone."""

from pathlib import Path

import pytest

from deliveryagent.config import load
from deliveryagent.config.problems import ConfigError
from deliveryagent.config.schedule import retry_settings
from deliveryagent.policy.retry import RetrySettings


def test_it_is_what_the_whole_configuration_says(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        'hostname = "a.test"\n[queue]\nurl = "sqlite:////q"\nminimal_backoff_time = "1s"\n'
        "delay_warning_time = 0\n[dns]\ntimeout = 1\n"
    )
    overrides = ["queue.maximal_queue_lifetime=2d"]
    environ = {"DELIVERYAGENT_QUEUE__BOUNCE_QUEUE_LIFETIME": "1d"}
    found = retry_settings(file, overrides, environ)
    assert [float(one) for one in vars(found).values()] == [1, 4000, 2 * 86400, 86400, 0]
    file.write_text(file.read_text().partition("[dns]")[0])
    whole = load(file, overrides, environ=environ).queue
    assert {name: getattr(whole, name) for name in vars(found)} == vars(found)


def test_without_a_file_it_has_the_defaults() -> None:
    assert retry_settings(environ={"DELIVERYAGENT_CONFIG": "/dev/null"}) == RetrySettings()


@pytest.mark.parametrize(
    "line",
    ['minimal_backoff_time = "soon"', "minimal_backoff_time = 0", 'maximal_backoff_time = "1s"'],
)
def test_what_is_wrong_with_it_is_told_as_ever(tmp_path: Path, line: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f'hostname = "a.test"\n[queue]\nurl = "sqlite:////q"\n{line}\n')
    with pytest.raises(ConfigError) as told:
        retry_settings(file, environ={})
    with pytest.raises(ConfigError) as whole:
        load(file, environ={})
    assert str(told.value) == str(whole.value)
