"""`generate` steered as a person steers it, by names, tables, sounds and pictures, and what does not fit refused."""

from __future__ import annotations

import re
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tokenreel.data.cache.reader import TokenCache
from tokenreel.data.spec import Framing
from tokenreel.data.tabletop.clip import TabletopClip, TabletopConfig, tabletop_clip
from tokenreel.data.video.framing import frame_into
from tokenreel.data.video.writer import write_video
from tokenreel.pipelines.cli.program import run_command
from tokenreel.pipelines.commands import decode, fit_controls, sample, tokenize_dataset
from tokenreel.pipelines.requests.decoding import DecodeRequest
from tokenreel.pipelines.requests.generation import SampleRequest
from tokenreel.pipelines.requests.tokenizing import TokenizeRequest
from tokenreel.pipelines.requests.training import FitControlsRequest
from tokenreel.priors.base import build_prior
from tokenreel.testing.tokenizers import spread_codes
from tokenreel.tokenizers.base import VideoTokenizer, build_tokenizer
from tokenreel.tokenizers.controls.controls import Controls
from tokenreel.tokenizers.controls.integers import IntegerConfig, IntegerEncoder

T, SIZE = 5, 16  # frames of a clip, pixels
DATA = f"tabletop:?videos=11&seed=4&frames={T}&size={SIZE}"
TOKENIZER: dict[str, Any] = {
    "type": "frame-vqvae", "hidden": 8, "residual": 4, "blocks": 1, "downsamplings": 2, "latent": 6,
    "quantizer": {"type": "vq", "codebook_size": 13, "init": "uniform"},
}  # fmt: skip
ALL = ("class", "state", "sound", "quarter", "end")
FITTED = """
data: {frames: 5, framing: {height: 16, width: 16}}
controls:
  class: {type: class}
  state: {type: state, codebook_size: 11}
  sound: {type: sound, codebook_size: 7, bands: 2, slices: 1, spectra: 1, rate: 2000, window: 64}
"""


@dataclass(frozen=True)
class Folder:
    """What the tests share, and one clip as a person would have it."""

    root: Path
    clip: TabletopClip
    row: int  # of the clip in the cache

    def prior(self, *controls: str, **settings: Any) -> list[str]:
        """An untrained one of large weights, so that what it reads shows in what is drawn."""
        path = self.root / "-".join(("prior", *controls, *settings))
        if not path.exists():
            torch.manual_seed(7)
            tokenizer = VideoTokenizer.from_pretrained(self.root / "tokenizer")
            section = {"type": "gpt", "depth": 1, "width": 16, "heads": 2, "controls": list(controls), **settings}
            prior = build_prior(section, Controls.from_pretrained(self.root / "controls").added_to(tokenizer.spec))
            for weights in prior.parameters():
                torch.nn.init.normal_(weights, std=0.5)
            prior.code_fingerprint, prior.trained_without_controls = tokenizer.code_fingerprint, True
            prior.save_pretrained(path)
        return [str(path)]

    def command(self, prior: list[str], out: Path, *flags: str) -> list[str]:
        """The command line; two samples of no given frame, unless `flags` say otherwise."""
        models = ["--prior", *prior, "--tokenizer", str(self.root / "tokenizer")]
        return ["generate", *models, "--given-frames", "0", "--num", "2", "--format", "npy", "--out", str(out), *flags]

    def draw(self, out: Path, *flags: str) -> np.ndarray:
        """uint8 [2, T, H, W, 3], by the prior that knows all controls."""
        coded = {"--class", "--states", "--sound", "--control"} & set(flags)
        controls = ("--controls", str(self.root / "controls")) if coded else ()
        assert run_command(self.command(self.prior(*ALL), out, *controls, *flags)) == 0
        return np.stack([np.load(out / f"{number:06d}.npy") for number in range(2)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """tokenizer, controls, cache; the clip's states.csv, sound.wav, start.npy (its frames) and end.png."""
    root = tmp_path_factory.mktemp("steered")
    torch.manual_seed(3)
    tokenizer = spread_codes(build_tokenizer(TOKENIZER, T, Framing(SIZE, SIZE)))
    for layer in tokenizer.get_submodule("decoder").modules():  # so that other codes are clearly other pixels
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            torch.nn.init.orthogonal_(layer.weight, gain=3.0)
    tokenizer.save_pretrained(root / "tokenizer")
    (root / "controls.yaml").write_text(FITTED)
    fit_controls.run(FitControlsRequest(config=root / "controls.yaml", data=DATA, out=root / "fitted", workers=0))
    fitted = Controls.from_pretrained(root / "fitted")
    quarter = IntegerEncoder(
        IntegerConfig("quarters.csv", "quarter", codebook_size=4)
    )  # a track of a user's, beside the fitted
    Controls({name: fitted.encoder(name) for name in fitted.names} | {"quarter": quarter}).save_pretrained(
        root / "controls"
    )
    stages = {"tokenizer": str(root / "tokenizer"), "controls": str(root / "fitted")}
    tokenize_dataset.run(TokenizeRequest(**stages, data=DATA, out=root / "cache"))
    cache = TokenCache.open(root / "cache")
    row = int(cache.rows("validation")[0])
    clip = tabletop_clip(TabletopConfig(SIZE, SIZE, frames=T, seed=4), int(cache.column("source")[row]))
    states(root / "states.csv", clip.state)
    sound(root / "sound.wav", clip.sound, clip.sample_rate)
    write_video(root / "start.npy", clip.frames, 10.0)
    for name, frame in (("first", 0), ("end", -1)):
        Image.fromarray(clip.frames[frame]).save(root / f"{name}.png")
    return Folder(root, clip, row)


def test_a_prior_of_tracks_alone_goes_on_from_the_states_of_the_given_frames(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = [*folder.prior("class", "state", controls_only=True), "--prior", *folder.prior("state")]
    flags = ["--controls", str(folder.root / "controls"), "--class", "sweep", "--guidance", "2"]
    given = ["--video", str(folder.root / "start.npy"), "--given-frames", "2"]
    made = []
    for number, first in enumerate((folder.clip.state[:2], folder.clip.state[:2], folder.clip.state[2:4])):
        begun = states(tmp_path / f"{number}.csv", first)
        command = folder.command(chain, tmp_path / f"{number}", *flags, "--states", begun, *given)
        assert run_command(command) == 0
        made.append(np.load(tmp_path / f"{number}" / "000000.npy"))
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0][2:], made[2][2:])
    capsys.readouterr()
    for more, message in (
        ([], "--given-frames (=2): a control prior samples 'state' and has to know it"),
        (["--states", str(folder.root / "states.csv")], "it has 5 frames, but 2 are needed"),
    ):
        assert run_command(folder.command(chain, tmp_path / "out", *flags, *more, *given)) != 0
        assert message in capsys.readouterr().err
    assert run_command(folder.command(chain, tmp_path / "free", *flags)) == 0


def states(path: Path, values: np.ndarray) -> str:
    return table(path, "x,y", [f"{x},{y}" for x, y in values])


def table(path: Path, columns: str, rows: list[str]) -> str:
    lines = [f"frame,{columns}", *(f"{frame},{row}" for frame, row in enumerate(rows))]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def sound(path: Path, samples: np.ndarray, rate: int) -> str:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return str(path)


def test_a_person_who_gives_what_a_clip_has_gets_what_sample_draws_from_the_cache(
    folder: Folder, tmp_path: Path
) -> None:
    """Class, states, sound, first and last frame by hand, against the same ones as the cache holds them."""
    root, prior = folder.root, folder.prior(*ALL)
    settings: dict[str, Any] = {"num": 2, "given_frames": 1, "seed": 5, "top_k": 7, "guidance": 1.5}
    tracks = ["class", "state", "sound", "end"]
    sample.run(
        SampleRequest(
            prior=prior, cache=root / "cache", out=tmp_path / "tokens", num_clips=1, given_controls=tracks, **settings
        )
    )
    (first, _) = TokenCache.open(tmp_path / "tokens").plan["videos"]
    assert first["row"] == folder.row
    decode.run(
        DecodeRequest(tokens=tmp_path / "tokens", tokenizer=str(root / "tokenizer"), out=tmp_path / "a", format="npy")
    )
    given = [
        "--class",
        folder.clip.class_name,
        "--states",
        str(root / "states.csv"),
        "--sound",
        str(root / "sound.wav"),
    ]
    pictures = ["--given-frames", "1", "--video", str(root / "start.npy"), "--end", str(root / "end.png")]
    drawn = folder.draw(tmp_path / "b", *given, *pictures, "--seed", "5", "--top-k", "7", "--guidance", "1.5")
    expected = np.stack([np.load(tmp_path / "a" / f"{number:06d}.npy") for number in range(2)])
    assert np.abs(drawn.astype(int) - expected).max() <= 1
    assert np.abs(expected[0, 1:].astype(int) - expected[1, 1:]).mean() > 5


@pytest.mark.parametrize(
    ("flag", "here", "elsewhere"),
    [
        ("--class", "sweep", "wander"),
        ("--states", "states.csv", "still.csv"),
        ("--sound", "sound.wav", "silence.wav"),
        ("--end", "end.png", "first.png"),
    ],
)
def test_each_control_steers_by_itself_and_only_by_what_it_says(
    folder: Folder, tmp_path: Path, flag: str, here: str, elsewhere: str
) -> None:
    """The same gives the same video, byte for byte; another, or none, another one."""
    states(folder.root / "still.csv", np.repeat(folder.clip.state[:1], T, 0))
    sound(folder.root / "silence.wav", np.zeros_like(folder.clip.sound), folder.clip.sample_rate)
    one, other = (name if flag == "--class" else str(folder.root / name) for name in (here, elsewhere))
    drawn = folder.draw(tmp_path / "a", flag, one)
    assert drawn.shape == (2, T, SIZE, SIZE, 3)
    assert np.array_equal(drawn, folder.draw(tmp_path / "b", flag, one))
    assert not np.array_equal(drawn, folder.draw(tmp_path / "c"))
    assert not np.array_equal(drawn, folder.draw(tmp_path / "d", flag, other))


def test_a_track_of_the_users_own_goes_by_its_name(folder: Folder, tmp_path: Path) -> None:
    quarters, others = (table(tmp_path / f"{q}.csv", "quarter", [q] * T) for q in "03")
    drawn = folder.draw(tmp_path / "a", "--control", f"quarter={quarters}")
    assert not np.array_equal(drawn, folder.draw(tmp_path / "b", "--control", f"quarter={others}"))
    by_type = folder.draw(tmp_path / "c", "--states", str(folder.root / "states.csv"))
    by_name = folder.draw(tmp_path / "d", "--control", f"state={folder.root / 'states.csv'}")
    assert np.array_equal(by_type, by_name)


def test_a_longer_video_takes_a_longer_table(folder: Folder, tmp_path: Path) -> None:
    """Other states behind the trained length change what is drawn from there on, and nothing before."""
    one, other = (np.concatenate([folder.clip.state, np.full((3, 2), place)]) for place in (0.25, 0.7))
    other[5] = one[5]
    drawn = [
        folder.draw(tmp_path / f"{i}", "--frames", "8", "--states", states(tmp_path / f"{i}.csv", values))
        for i, values in enumerate((one, other))
    ]
    assert drawn[0].shape[1] == 8
    assert np.array_equal(drawn[0][:, :6], drawn[1][:, :6])
    assert not np.array_equal(drawn[0][:, 6:], drawn[1][:, 6:])


def test_guidance_follows_the_controls_further_and_0_not_at_all(folder: Folder, tmp_path: Path) -> None:
    flags = {"one": ["--class", folder.clip.class_name], "other": ["--class", "push-up"]}
    drawn = {
        (name, guidance): folder.draw(tmp_path / f"{name}-{guidance}", *said, "--guidance", guidance)
        for name, said in flags.items()
        for guidance in ("0", "1", "3")
    }
    assert np.array_equal(drawn["one", "0"], drawn["other", "0"])
    assert not np.array_equal(drawn["one", "1"], drawn["other", "1"])
    assert not np.array_equal(drawn["one", "3"], drawn["one", "1"])


def test_an_end_frame_of_another_size_is_framed_as_every_picture(folder: Folder, tmp_path: Path) -> None:
    large = np.kron(folder.clip.frames[-1], np.ones((3, 3, 1), np.uint8))
    Image.fromarray(large).save(tmp_path / "large.png")
    Image.fromarray(frame_into(Framing(SIZE, SIZE), large)).save(tmp_path / "framed.png")
    drawn = [folder.draw(tmp_path / name, "--end", str(tmp_path / f"{name}.png")) for name in ("large", "framed")]
    assert np.array_equal(*drawn)


def test_an_end_frame_may_be_the_last_one_of_a_video(folder: Folder, tmp_path: Path) -> None:
    drawn = [folder.draw(tmp_path / name, "--end", str(folder.root / name)) for name in ("start.npy", "end.png")]
    assert np.array_equal(*drawn)


@pytest.mark.parametrize(
    ("knows", "flags", "code", "message"),
    [
        ("state", "--states 4.csv", 1, r"control 'state', .*4.csv: it has 4 frames, but 5 are needed"),
        ("state", "--states far.csv", 1, r"control 'state', .*: x \(=30\) .* is far outside of .* 0\.\d+ to 0\.\d+"),
        ("state", "--states quarters.csv", 1, r"has no column 'x'; known: quarter"),
        ("state", "--states none.csv", 1, r"none.csv cannot be read"),
        ("state", "--states states.csv --frames 7", 1, "it has 5 frames, but 7 are needed"),
        ("sound", "--sound short.wav", 1, r"control 'sound', .*: .*its sound lasts 0\.25 s, its frames need 0\.40 s"),
        ("sound", "--sound states.csv", 1, "its sound cannot be read: unreadable"),
        ("quarter", "--control quarter=quarters.csv", 1, r"quarter \(=4\) in frame 2 .* integer from 0 to 3"),
        ("class", "--class wandr", 1, "class 'wandr' is not known; did you mean 'wander'"),
        ("class", "--states states.csv", 2, r"not trained with the control 'state' \(it has: class\)"),
        ("", "--class wander", 2, r"not trained with the control 'class' \(it has: none\)"),
        ("class", "--end end.png", 2, r"not trained with the control 'end' \(it has: class\)"),
        ("end", "--end none.png", 1, "none.png"),
        ("state", "--control stat=states.csv", 2, "no control is called 'stat'; did you mean 'state'"),
        ("state", "--control state", 2, "'state': write it as NAME=FILE"),
        ("state", "--states states.csv --control state=4.csv", 2, "'state' is given twice, as .*states.csv and as .*4"),
        ("class", "--guidance 2", 2, r"guidance \(=2.0\) needs a given control"),
        ("class", "--given-frames 1", 2, r"--given-frames \(=1\) needs --video"),
        ("class", "--context 1", 2, "decodes without context"),
        ("class", "--controls controls", 2, "--controls controls has no effect on its own: give --class, --states"),
        ("class", "--video start.npy", 2, "--video start.npy is not used with --given-frames 0"),
        ("class", "--class wander --frames 17 --window-stride 5", 2, r"window_stride \(=5\) must be below"),
        ("end", "--top-k-of end=3", 2, r"stream 'end' is not sampled by these priors \(sampled: video\)"),
        ("state", "--top-k-of stat=3", 2, "no stream is called 'stat'; did you mean 'state'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(
    folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    knows: str,
    flags: str,
    code: int,
    message: str,
) -> None:
    """What was found and what is needed; and no folder is begun."""
    monkeypatch.chdir(folder.root)
    states(Path("4.csv"), folder.clip.state[:4])
    table(Path("far.csv"), "x,y", ["30,0.5"] * T)
    table(Path("quarters.csv"), "quarter", ["0", "1", "4", "2", "3"])
    sound(Path("short.wav"), np.zeros(1000), 4000)
    prior = folder.prior(*([knows] if knows else []))
    line = [*folder.command(prior, tmp_path / "out"), *flags.split()]
    if re.search("--(class|states|sound|control) ", flags):
        line += ["--controls", "controls"]
    assert refusal(capsys, line, code, message)
    assert not (tmp_path / "out").exists()


def refusal(capsys: pytest.CaptureFixture[str], line: list[str], code: int, message: str) -> bool:
    """Whether the command line ends with that code and a single line like `message`."""
    capsys.readouterr()
    assert run_command([*line, "--quiet"]) == code
    shown = capsys.readouterr().err.strip()
    assert len(shown.splitlines()) == 1
    assert re.search(message, shown), shown
    return True


def test_true_frames_help_in_decoding_where_the_tokenizer_decodes_with_context(folder: Folder, tmp_path: Path) -> None:
    """Guidance 0 keeps an end frame from the prior, so that the codes are the same and only decoding can tell it."""
    section = {"type": "context-autoencoder", "width": 5, "multipliers": [1, 2, 3], "latent": 6, "context": 3}
    section |= {"quantizer": {"type": "fsq", "levels": [5, 3, 3]}, "flow": {"widths": [7, 5]}}
    torch.manual_seed(5)
    tokenizer = build_tokenizer(section, T, Framing(SIZE, SIZE))
    for level in tokenizer.decoder.flow:
        torch.nn.init.normal_(level.matching.head.weight, std=0.3)  # which is 0 before training: all flow and masks
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    prior = build_prior({"type": "gpt", "depth": 1, "width": 8, "heads": 1, "controls": ["end"]}, tokenizer.spec)
    prior.code_fingerprint, prior.trained_without_controls = tokenizer.code_fingerprint, True
    prior.save_pretrained(tmp_path / "prior")

    def draw(name: str, end: str, *flags: str) -> np.ndarray:
        given = ["--video", str(folder.root / "start.npy"), "--given-frames", "2", "--end", str(folder.root / end)]
        models = ["--prior", str(tmp_path / "prior"), "--tokenizer", str(tmp_path / "tokenizer")]
        line = ["generate", *models, *given, "--guidance", "0", "--num", "1", "--format", "npy", *flags]
        assert run_command([*line, "--out", str(tmp_path / name)]) == 0
        return np.load(tmp_path / name / "000000.npy")

    end, other = draw("a", "end.png"), draw("b", "first.png")
    alone, other_alone = (
        draw(name, picture, "--context", "0") for name, picture in (("c", "end.png"), ("d", "first.png"))
    )
    for drawn in (end, other, alone, other_alone):
        assert np.array_equal(drawn[:2], folder.clip.frames[:2])
    assert (end[2:] != other[2:]).any((1, 2, 3)).all()
    assert (end[2:] != alone[2:]).any((1, 2, 3)).all()
    assert np.array_equal(alone, other_alone)


def test_controls_that_the_prior_was_not_trained_with_are_refused(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder.root
    line = [*folder.command(folder.prior("state"), tmp_path / "out"), "--states", str(root / "states.csv")]
    assert refusal(capsys, line, 2, "--states .*states.csv needs --controls")
    several = FITTED + "  arm: {type: state, codebook_size: 5, columns: [x]}\n"
    for name, text in (("arms", several), ("other", FITTED.replace("11", "10")), ("class", FITTED.split("  state")[0])):
        (tmp_path / "settings.yaml").write_text(text)
        fit_controls.run(
            FitControlsRequest(config=tmp_path / "settings.yaml", data=DATA, out=tmp_path / name, workers=0)
        )
    for name, message in (
        ("arms", "--states .*states.csv may mean state or arm: use --control state="),
        ("other", "other differ from those of the prior: .*codebook size 11.*codebook size 10"),
        ("class", r"needs a control of type 'state'; --controls has class \(class\)"),
    ):
        assert refusal(capsys, [*line, "--controls", str(tmp_path / name)], 2, message)


def test_a_cache_without_the_condition_that_the_prior_wants_is_refused(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenize_dataset.run(TokenizeRequest(tokenizer=str(folder.root / "tokenizer"), data=DATA, out=tmp_path / "bare"))
    cache = ["--cache", str(tmp_path / "bare")]
    (tmp_path / "prior.yaml").write_text("prior: {type: gpt, depth: 1, width: 8, heads: 1, controls: [state]}\n")
    train = ["train-prior", "--config", str(tmp_path / "prior.yaml"), *cache, "--out", str(tmp_path / "out")]
    assert refusal(capsys, train, 2, r"controls \(=\['state'\]\).*lack \['state'\]")
    draw = ["sample", "--prior", *folder.prior("state"), *cache, "--out", str(tmp_path / "out")]
    assert refusal(capsys, draw, 2, r"the prior needs the control 'state', which the tokens lack \(they have: none\)")


def test_videos_at_another_rate_than_the_sound_was_fitted_for_are_refused(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = ["--tokenizer", str(folder.root / "tokenizer"), "--controls", str(folder.root / "fitted")]
    line = ["tokenize-dataset", *stages, "--data", f"{DATA}&frame_rate=7", "--out", str(tmp_path / "out")]
    assert refusal(capsys, line, 1, "its frames come at 7 per second, the sound's encoder was fitted for 10")
    write_video(tmp_path / "fast.mp4", folder.clip.frames, 25.0)
    given = ["--sound", str(folder.root / "sound.wav"), "--video", str(tmp_path / "fast.mp4"), "--given-frames", "2"]
    line = [*folder.command(folder.prior("sound"), tmp_path / "out"), "--controls", str(folder.root / "controls")]
    assert refusal(capsys, [*line, *given], 1, "'sound' was fitted for 10 frames per second, but --video has 25")
