"""Configuration: which layer wins, and what a mistake in any of them is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepipe.pipeline.errors import UsageError
from edgepipe.pipeline.settings.load import Config, load, load_exported


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGEPIPE_WORKSPACE", "EDGEPIPE_BENCH_THREADS", "EDGEPIPE_BENCH_RUNNERS"):
        monkeypatch.delenv(name, raising=False)


def test_flags_over_environment_over_toml_over_pyproject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.edgepipe.bench]\nthreads = 1\ngenerations = 11\nseconds = 0.5\n"
        "[tool.edgepipe.export]\ninput-size = 96\n"
    )
    (tmp_path / "edgepipe.toml").write_text("[bench]\nthreads = 2\ngenerations = 12\n")
    monkeypatch.setenv("EDGEPIPE_BENCH_THREADS", "3")
    config = load({"bench": {"generations": 14, "seconds": None}}, tmp_path)
    assert config.bench.generations == 14
    assert config.bench.threads == 3
    assert config.bench.seconds == 0.5
    assert config.export.input_size == 96
    assert load({}, tmp_path).bench.generations == 12


def test_lists_in_the_environment_are_separated_by_commas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPIPE_BENCH_RUNNERS", "ort-cpu, openvino")
    assert load({}, tmp_path).bench.runners == ("ort-cpu", "openvino")


def test_targets_and_interpreters(tmp_path: Path) -> None:
    (tmp_path / "edgepipe.toml").write_text(
        '[targets.old_cpu]\ncommand = ["qemu-x86_64", "-cpu", "Haswell", "{python}"]\n'
        'emulated = true\n[runners.ort-cpu]\npython = "/opt/python"\n'
    )
    config = load({}, tmp_path).places
    target = config.target("old_cpu")
    assert target.emulated
    assert target.argv("/usr/bin/python3")[:4] == [
        "qemu-x86_64",
        "-cpu",
        "Haswell",
        "/usr/bin/python3",
    ]
    assert config.python_of("ort-cpu") == "/opt/python"
    assert config.python_of("openvino") is None
    assert config.target("local").name == "local"


def test_sizes_and_channels_in_every_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edgepipe.toml").write_text("[export]\ninput-size = [480, 640]\nchannels = 5\n")
    found = load({}, tmp_path).export
    assert (found.input_size, found.channels) == ((480, 640), 5)
    monkeypatch.setenv("EDGEPIPE_EXPORT_INPUT_SIZE", "64x96")
    monkeypatch.setenv("EDGEPIPE_EXPORT_CHANNELS", "grey")
    found = load({}, tmp_path).export
    assert (found.input_size, found.channels) == ((64, 96), "grey")
    given = {"export": {"input_size": "128", "channels": "3", "mean": (0.1,)}}
    found = load(given, tmp_path).export
    assert (found.input_size, found.channels, found.mean) == (128, 3, (0.1,))


def test_a_target_of_ones_own_can_compute_as_an_older_cpu(tmp_path: Path) -> None:
    (tmp_path / "edgepipe.toml").write_text(
        '[targets.box]\nssh = "box"\npython = "/opt/python"\nisa = "avx2-vnni"\n'
        '[targets.isa-avx2]\ncommand = ["nice", "{python}"]\n'
    )
    places = load({}, tmp_path).places
    assert places.target("box").isa == "avx2-vnni"
    assert places.target("isa-avx512-core").isa == "avx512-core"
    assert places.target("isa-avx2").isa is None, "one's own comes before a built-in one"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[targets.a]\ncommand = ['c']\nisa = 'avx3'", r"targets\.a\.isa .*avx2"),
        ("[bench]\nthread = 2", r"unknown key bench\.thread \(edgepipe\.toml\); .*threads\?"),
        ("workspaces = 'x'", r"unknown key workspaces .*workspace\?"),
        ("[export]\ninput-sice = 2", r"unknown key export\.input-sice .*input-size\?"),
        ("[targets.a]\ncommnad = ['x']", r"targets\.a"),
        ("[bench]\nthreads = 'two'", r"bench\.threads \(edgepipe\.toml\): .*'two'"),
        ("[bench]\nthreads = 0", r"bench\.threads .*greater than or equal to 1"),
        ("[export]\nbatch = 'many'", r"export\.batch .*'many'"),
        ("[targets.a]\ncommand = []", r"targets\.a\.command"),
        ("[targets.a]\nssh = '-oProxyCommand=x'\npython = 'p'", r"targets\.a\.ssh .*: not a host"),
        ("[targets.a]\nssh = 'u@-oProxyCommand=x'\npython = 'p'", r"targets\.a\.ssh .*not a host"),
        ("[targets.a]\nssh = 'a b'\npython = 'p'", r"targets\.a\.ssh .*not a host"),
        ("[targets.a]\nssh = 'a;rm'\npython = 'p'", r"targets\.a\.ssh .*not a host"),
        ("[targets.a]\nssh = 'a'", r"targets\.a .*: ssh and python belong together"),
        ("[targets.a]\nssh = 'a'\npython = 'p'\ncommand = ['c']", r"targets\.a .*: .*either"),
        ("[targets.a]\ncommand = ['c']\noptions = ['-v']", r"options only go with ssh"),
        ("[targets.a]\nemulated = true", r"targets\.a .*: .*either a command or ssh"),
        ("[bench]\nrunners = ['ort-cpo']", r"bench\.runners: no 'ort-cpo'; .*ort-cpu\?"),
        ("[bench]\ntargets = ['lokal']", r"bench\.targets: no 'lokal'; .*local\?"),
        ("[bench]\nvariants = ['int9']", r"bench\.variants: no 'int9'; .*int8"),
        ("[runners.openvimo]\npython = 'x'", r"runners: no 'openvimo'; .*openvino\?"),
        ("[export]\nweights = 'digit'", r"export\.weights: no 'digit'; .*digits\?"),
        ("[export]\ninput-size = '480x'", r"export\.input-size .*HEIGHTxWIDTH.*'480x'"),
        ("[export]\ninput-size = '480x9999'", r"export\.input-size .*32 to 2,048 pixels"),
        ("[export]\ninput-size = [480, 640, 3]", r"export\.input-size .*HEIGHTxWIDTH"),
        ("[export]\ninput-size = 16", r"export\.input-size .*greater than or equal to 32"),
        ("[export]\nchannels = 'cmyk'", r"export\.channels .*'rgb', 'bgr' or 'grey'"),
        ("[export]\nchannels = 0", r"export\.channels"),
        ("[train]\ninput-size = '64x96'", r"train\.input-size"),
        ("threads = [", r"edgepipe\.toml: not valid TOML"),
        ("bench = 3", r"bench"),
    ],
)
def test_a_mistake_names_the_key_and_the_nearest_valid_one(
    tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "edgepipe.toml").write_text(text)
    with pytest.raises(UsageError, match=says):
        load({}, tmp_path)


def test_an_unknown_variable_of_the_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPIPE_BENCH_THREDS", "2")
    with pytest.raises(UsageError, match=r"bench\.threds \(environment\); .*threads\?"):
        load({}, tmp_path)


@pytest.mark.parametrize("name", ["EDGEPIPE_HOME", "EDGEPIPE_VERSION", "EDGEPIPE_TOKEN"])
def test_a_variable_of_somebody_elses_is_let_be(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "/opt/edgepipe")
    assert load(folder=tmp_path) == Config()


@pytest.mark.parametrize(
    "name", ["EDGEPIPE_WORKSPCE", "EDGEPIPE_BENHC_THREADS", "EDGEPIPE_BENCH_THREDS"]
)
def test_a_variable_that_is_nearly_a_setting_is_a_mistake(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "2")
    with pytest.raises(UsageError, match="environment"):
        load(folder=tmp_path)


def test_the_only_model_of_a_workspace_is_the_default(tmp_path: Path) -> None:
    def chosen(**flags: str) -> str:
        return load_exported({"workspace": tmp_path, **flags}).model

    assert chosen() == "mobilenet_v2"
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "manifest.json").touch()
    assert chosen() == "mine"
    assert chosen(model="other") == "other"
    (tmp_path / "other" / "manifest.json").touch()
    assert chosen() == "mobilenet_v2"
