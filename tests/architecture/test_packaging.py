"""packaging/ keeps to the code: its commands, options, settings, ports and versions are those that there are."""

from __future__ import annotations

import re
import shlex
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
import pytest
import yaml

from helios_core import config
from helios_core.errors import ConfigError
from helios_core.settings import Settings, is_loopback, split

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "packaging"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((FOLDER / "compose" / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = [name for name, service in SERVICES.items() if "build" in service]
PARTS: Final = [name for name in OURS if "ports" in SERVICES[name]]
SETTINGS: Final = (FOLDER / "compose" / "helios.yaml").read_text(encoding="utf-8")
DOCKERFILE: Final = (FOLDER / "docker" / "Dockerfile").read_text(encoding="utf-8")
README: Final = (FOLDER / "README.md").read_text(encoding="utf-8")
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SCRIPTS: Final[dict[str, str]] = PROJECT["project"]["scripts"]
SECRETS: Final = {"HELIOS_ADMIN_KEY_SHA256": "0" * 64, "POSTGRES_PASSWORD": "any"}
_ASKED: Final = re.compile(r"\$\{([A-Z_0-9]+):\?([^}]+)\}")


def words_of(name: str) -> list[str]:
    """The command line of a service."""
    service = SERVICES[name]
    return [*service.get("entrypoint", ()), *service["command"]]


def environment_of(name: str) -> dict[str, str]:
    """What a service finds in its environment when `.env` is filled in."""
    given = SERVICES[name]["environment"]
    return {key: _ASKED.sub(lambda match: SECRETS[match[1]], str(value)) for key, value in given.items()}


def parsed(words: list[str]) -> click.Context:
    """The command line, read by the command itself, and not run. UsageError when it takes no such thing."""
    program, *rest = words
    assert program in SCRIPTS, f"{program} is no command of the project"
    module = SCRIPTS[program].partition(":")[0]
    command = import_module("helios_core.cli" if module == "helios_core.main" else module).cli
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        outer = click.Context(command)
        name = rest.pop(0)
        found = command.get_command(outer, name)
        assert found is not None, f"{program} has no command {name}"
        command = found
    assert isinstance(command, click.Command)
    if rest == ["--help"]:
        return click.Context(command)
    assert not isinstance(command, click.Group), f"{shlex.join(words)} names no command"
    return command.make_context(program, rest)


def settings_of(name: str) -> Settings:
    """The configuration, as a part has it with its options."""
    given = parsed(words_of(name)).params
    settings = config.parse(SETTINGS, Settings, environment_of(name), name="helios.yaml")
    return config.override(settings, {key: given[key] for key in ("http", "data_dir") if given.get(key)})


def mounts_of(name: str) -> dict[str, tuple[str, bool]]:
    """(what is mounted, whether it may be written) by where."""
    found = {}
    for volume in SERVICES[name]["volumes"]:
        source, target, *options = volume.split(":")
        found[target] = source, "ro" not in options
    return found


def published(name: str) -> list[tuple[str, int, int]]:
    """(address, port outside, port inside) of each."""
    split_up = (port.rsplit(":", 2) for port in SERVICES[name].get("ports", ()))
    return [(address, int(outside), int(inside)) for address, outside, inside in split_up]


def readme_commands() -> Iterator[list[str]]:
    """What it says to run of ours."""
    for line in re.findall(r"^docker compose run --rm (.+)$", README, re.MULTILINE):
        service, *rest = shlex.split(line)
        yield [*SERVICES[service]["entrypoint"], *rest]
    for line in re.findall(r"`docker run --rm helios (.+?)`", README):
        yield shlex.split(line)


@pytest.mark.parametrize("name", OURS)
def test_each_service_runs_a_command_that_there_is(name: str) -> None:
    parsed(words_of(name))


def test_what_else_is_said_to_be_run_is_a_command_that_there_is() -> None:
    (default,) = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    commands = [yaml.safe_load(default), *readme_commands()]
    assert len(commands) >= 6
    for words in commands:
        parsed(words)


def test_an_option_that_there_is_not_is_noticed() -> None:
    with pytest.raises(click.UsageError, match="--htp"):
        parsed(["helios-reporter", "run", "--htp", "0.0.0.0:8001"])
    with pytest.raises(AssertionError, match="no command migrat"):
        parsed(["helios", "db", "migrat"])


@pytest.mark.parametrize("name", [name for name in OURS if "--config" in words_of(name)])
def test_the_configuration_is_one_where_it_is_read(name: str) -> None:
    given = parsed(words_of(name)).params
    path = next(value for key, value in given.items() if key in ("path", "config"))
    assert mounts_of(name)[str(path)] == ("./helios.yaml", False)
    config.parse(SETTINGS, Settings, environment_of(name))


def test_variables_of_the_environment_are_those_that_something_reads() -> None:
    known = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE))
    known |= set(re.findall(r"\$\{([A-Z_0-9]+)", "".join(line.partition("#")[0] for line in SETTINGS.splitlines())))
    for name in OURS:
        assert set(SERVICES[name]["environment"]) <= known | {"PGPASSWORD"}


@pytest.mark.parametrize("name", PARTS)
def test_nobody_is_let_in_without_a_key(name: str) -> None:
    settings = settings_of(name)
    assert not settings.keys().are_open
    assert not is_loopback(settings.http)
    without = config.override(settings, {"api_keys": ()})
    with pytest.raises(ConfigError, match="there are no API keys"):
        without.keys()


def test_it_starts_with_no_secret_left_out_and_has_none_of_its_own() -> None:
    text = (FOLDER / "compose" / "compose.yaml").read_text(encoding="utf-8")
    asked = _ASKED.findall(text)
    assert len(asked) == text.count("${"), "a variable may be left out, and nothing says so"
    assert {name for name, _ in asked} == set(SECRETS)
    assert all("README.md" in said for _, said in asked)
    example = dict(
        line.split("=", 1)
        for line in (FOLDER / "compose" / ".env.example").read_text(encoding="utf-8").splitlines()
        if "=" in line and not line.startswith("#")
    )
    assert example == dict.fromkeys(SECRETS, "")
    assert ".env" in (FOLDER / "compose" / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert all(name in README for name in SECRETS)


def test_the_engines_are_those_that_the_tests_run_against() -> None:
    tree = ElementTree.parse(ROOT / "tests" / "engines" / "kafka" / "pom.xml")
    named = {"m": "http://maven.apache.org/POM/4.0.0"}
    versions = {
        str(one.findtext("m:artifactId", namespaces=named)): one.findtext("m:version", namespaces=named)
        for one in tree.iterfind(".//m:dependency", named)
    }
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{versions['kafka_2.13']}"
    tag = re.fullmatch(r"timescale/timescaledb:(\d+\.\d+)\.\d+-pg(\d+)", SERVICES["postgres"]["image"])
    assert tag is not None
    documented = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"PostgreSQL {tag[2]}" in documented
    assert f"TimescaleDB {tag[1]}" in documented
    assert all(SERVICES[name]["image"] in README for name in ("kafka", "postgres"))


def test_ports_are_the_documented_ones_and_of_this_machine_only() -> None:
    found = [one for name in SERVICES for one in published(name)]
    assert {address for address, _, _ in found} == {"127.0.0.1"}
    assert all(outside == inside for _, outside, inside in found)
    assert {name for name in SERVICES if published(name)} == {"collector", "detector", "reporter"}
    own = {name: parsed([f"helios-{name}", "run", "--help"]).command.params for name in PARTS}
    for name in PARTS:
        (text,) = [str(one.help) for one in own[name] if isinstance(one, click.Option) and one.name == "http"]
        assert f":{split(settings_of(name).http)[1]}]" in text, "not the port that the command takes by itself"
        listening = {split(settings_of(name).http)[1]}
        if name == "collector":
            listening |= {split(address)[1] for address in (settings_of(name).grpc, settings_of(name).otlp_http)}
        assert {inside for _, _, inside in published(name)} == listening
    ports = {outside for _, outside, _ in found}
    assert ports == {int(port) for port in re.findall(r"^\| (\d{4}) \|", README, re.MULTILINE)}
    assert ports == set(map(int, re.search(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)[1].split()))  # type: ignore[index]  # it is there
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert all(str(port) in reference for port in ports)


@pytest.mark.parametrize("name", PARTS)
def test_the_health_check_asks_where_it_listens(name: str) -> None:
    (asked,) = re.findall(r"http://127\.0\.0\.1:(\d+)/health", SERVICES[name]["healthcheck"]["test"][-1])
    assert int(asked) == split(settings_of(name).http)[1]


@pytest.mark.parametrize("name", PARTS)
def test_what_it_needs_is_done_before_it_starts(name: str) -> None:
    done = {"condition": "service_completed_successfully"}
    assert SERVICES[name]["depends_on"] == {"migrate": done, "topics": done, "keys": done}
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert all("healthcheck" in SERVICES[engine] for engine in ("kafka", "postgres"))


def test_it_reaches_the_engines_where_they_are() -> None:
    settings = settings_of("collector")
    assert settings.kafka is not None
    assert f"PLAINTEXT://{settings.kafka.bootstrap}" == SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert split(settings.kafka.bootstrap)[0] in SERVICES
    assert settings.postgres is not None
    user, host, database = re.fullmatch(r"postgresql://(\w+)@(\w+):5432/(\w+)", settings.postgres.dsn).groups()  # type: ignore[union-attr]  # it fits
    environment = SERVICES["postgres"]["environment"]
    assert (user, host, database) == (environment["POSTGRES_USER"], "postgres", environment["POSTGRES_DB"])
    assert all(environment_of(name)["PGPASSWORD"] == SECRETS["POSTGRES_PASSWORD"] for name in PARTS)


def test_what_is_kept_is_in_volumes_of_its_own() -> None:
    data, keys = settings_of("collector").data_dir, str(Path(settings_of("collector").api_keys_file).parent)
    assert [mounts_of(name)[data] for name in PARTS] == [(name, True) for name in PARTS]
    assert {mounts_of(name)[keys] for name in PARTS} == {("keys", False)}
    assert mounts_of("keys")[keys] == ("keys", True)
    assert environment_of("keys")["HELIOS_DATA_DIR"] == keys
    used = {source for name in SERVICES if "volumes" in SERVICES[name] for source, _ in mounts_of(name).values()}
    assert used - {"./helios.yaml"} == set(COMPOSE["volumes"])
    # A fresh volume takes the owner of the folder in the image.
    made = re.search(r"install -d -o helios -g helios -m 0750 (.*)$", DOCKERFILE, re.MULTILINE)
    assert made is not None
    assert {data, keys} <= set(made[1].split())


def test_each_service_is_bounded_and_comes_again() -> None:
    for name, service in SERVICES.items():
        assert "mem_limit" in service, name
        assert service["restart"] == ("no" if name in ("migrate", "topics", "keys") else "unless-stopped"), name
    for name in OURS:
        assert SERVICES[name]["read_only"] is True
        assert SERVICES[name]["cap_drop"] == ["ALL"]


def test_the_image_is_made_of_what_the_wheel_is_made_of() -> None:
    copied = re.findall(r"^COPY ((?!--from).+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {word for line in copied for word in line.split()}
    packages = {path.split("/")[0] for path in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert sources == packages | {"requirements/lock.txt", "pyproject.toml", "README.md", "LICENSE"}
    assert all((ROOT / source).exists() for source in sources)
    ignored = (FOLDER / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == sources
    assert "*" in ignored


def test_the_image_is_pinned_and_of_a_python_that_is_supported() -> None:
    (version,) = re.findall(r"^ARG PYTHON=(\d+\.\d+)-slim", DOCKERFILE, re.MULTILINE)
    assert f"Programming Language :: Python :: {version}" in PROJECT["project"]["classifiers"]
    assert "--require-hashes" in DOCKERFILE
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert not re.search(r"\bpip\b|apt|gcc", final.split("\n", 1)[1])
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert f"{SERVICES['collector']['build']['dockerfile']}" in DOCKERFILE
