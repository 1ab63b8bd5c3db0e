"""Control encoders: error of reconstruction, rejected inputs, deterministic fitting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tokenreel.data.controls.sound import resample, windows
from tokenreel.data.tabletop.clip import TabletopClip, TabletopConfig, tabletop_clip
from tokenreel.errors import ConfigError, DataError
from tokenreel.tokenizers.controls.base import ControlEncoder, DatasetInfo, build_control_encoder
from tokenreel.tokenizers.controls.class_name import ClassConfig, ClassEncoder
from tokenreel.tokenizers.controls.integers import IntegerConfig, IntegerEncoder
from tokenreel.tokenizers.controls.kmeans import kmeans_codebook
from tokenreel.tokenizers.controls.sound import SoundConfig, SoundEncoder
from tokenreel.tokenizers.controls.state import StateConfig, StateEncoder

T = 16
SOUND = SoundConfig(codebook_size=31, bands=4, slices=2, spectra=1, rate=2000, window=128, frame_rate=10.0)


@pytest.fixture(scope="module")
def clips() -> list[TabletopClip]:
    return [tabletop_clip(TabletopConfig(frames=T, height=16, width=16), index) for index in range(150)]


def sounds(clips: list[TabletopClip], config: SoundConfig = SOUND) -> list[np.ndarray]:
    times, length = np.arange(T) / 10, SoundEncoder(config).source.samples
    return [windows(resample(c.sound, c.sample_rate, config.rate), config.rate, times, length) for c in clips]


@pytest.fixture(scope="module")
def sound_encoder(clips: list[TabletopClip]) -> SoundEncoder:
    encoder = SoundEncoder(SOUND)
    encoder.fit(sounds(clips[:100]))
    return encoder


def error_metrics(encoder: ControlEncoder, clip_inputs: list[np.ndarray]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for clip_input in clip_inputs:
        for key, value in encoder.error_sums(clip_input, encoder.decode(encoder.encode(clip_input))).items():
            sums[key] = sums.get(key, 0.0) + value
    return encoder.error_metrics(sums)


def test_a_class_is_its_index_among_the_sorted_names() -> None:
    encoder = ClassEncoder(ClassConfig(("ant", "bee", "cow")))
    assert encoder.encode("bee").item() == 1
    assert encoder.decode(encoder.encode("cow")) == "cow"
    stream = encoder.stream("class", 7)
    assert (stream.grid, stream.stride, stream.codebook_size, stream.unconditional_token) == ((1, 1, 1), 7, 3, 3)
    with pytest.raises(DataError, match="class 'be' is not known; did you mean 'bee'"):
        encoder.encode("be")


def test_states_are_reconstructed_within_the_reported_error(clips: list[TabletopClip]) -> None:
    """Of 128 codes over a range R an even codebook has an error of R / (128 sqrt 12); a fitted one has less."""
    clip_inputs = [clip.state for clip in clips]
    encoder = StateEncoder(StateConfig(codebook_size=128, columns=("x", "y")))
    encoder.fit(clip_inputs)
    error = error_metrics(encoder, clip_inputs)["rms_error"]
    values = np.concatenate(clip_inputs)
    assert error == pytest.approx(
        np.sqrt(
            np.mean([np.square(encoder.decode(encoder.encode(clip_input)) - clip_input) for clip_input in clip_inputs])
        ),
        rel=1e-5,
    )
    assert error < np.ptp(values, axis=0).max() / 128 / np.sqrt(12)
    indices = encoder.encode(clip_inputs[0])
    assert indices.shape == (T, 1, 2, 1)
    brute = np.abs(clip_inputs[0][:, :, None] - encoder.codebooks.numpy()[None]).argmin(axis=2)
    np.testing.assert_array_equal(indices[:, 0, :, 0], brute)
    np.testing.assert_array_equal(encoder.encode(encoder.decode(indices)), indices)


def test_an_invalid_state_is_rejected(clips: list[TabletopClip]) -> None:
    encoder = StateEncoder(StateConfig(codebook_size=7, columns=("x", "y")))
    encoder.fit([clips[0].state])
    for wrong in (clips[0].state[:, :1], np.full((T, 2), np.nan)):
        with pytest.raises(DataError, match="finite numbers for x, y"):
            encoder.encode(wrong)
    encoder.require_in_range(clips[0].state)
    with pytest.raises(DataError, match=r"y \(=.*\) in frame 0 is far outside of the training data's range"):
        encoder.require_in_range(clips[0].state * [1, 64])


def test_integers_pass_unchanged_and_nothing_else_does() -> None:
    encoder = IntegerEncoder(IntegerConfig("grip.csv", "grip", codebook_size=5))
    clip_input = np.array([[0], [4], [2]], dtype=np.float32)
    np.testing.assert_array_equal(encoder.encode(clip_input)[:, 0, 0, 0], [0, 4, 2])
    np.testing.assert_array_equal(encoder.decode(encoder.encode(clip_input)), clip_input)
    for wrong in (5, -1, 1.5):
        with pytest.raises(DataError, match=rf"grip \(={wrong:g}\) in frame 1 .* must be an integer from 0 to 4"):
            encoder.encode(np.array([[0], [wrong]], dtype=np.float32))


def test_a_spectrum_has_level_and_frequency() -> None:
    """A full-scale sine at the centre of bin 13 has 0 dB there, that is, 80 above the floor."""
    encoder = SoundEncoder(SoundConfig(rate=2000, window=128, bands=4, slices=3, spectra=2, frame_rate=10.0))
    time = np.arange(5 * 200) / 2000
    sine = np.sin(2 * np.pi * 13 * 2000 / 128 * time).astype(np.float32).reshape(5, 200)
    spectrum = encoder.spectrum(sine)
    assert spectrum.shape == (5, 64, 6)
    np.testing.assert_array_equal(spectrum.argmax(axis=1), 12)  # without the constant
    np.testing.assert_allclose(spectrum[:, 12], 80, atol=0.01)
    np.testing.assert_allclose(encoder.spectrum(sine / 10)[:, 12], 60, atol=0.01)
    assert encoder.spectrum(np.zeros((2, 200), np.float32)).max() == 0


def test_tokens_do_not_depend_on_later_sound(clips: list[TabletopClip], sound_encoder: SoundEncoder) -> None:
    clip_input = sounds(clips[:1])[0]
    changed = clip_input.copy()
    changed[7:] = np.random.default_rng(0).normal(size=changed[7:].shape) * 0.1
    indices, other = sound_encoder.encode(clip_input), sound_encoder.encode(changed)
    np.testing.assert_array_equal(indices[:7], other[:7])
    assert (indices[7:] != other[7:]).reshape(9, -1).any(axis=1).all()


def test_each_patch_has_the_nearest_code_of_its_band(clips: list[TabletopClip], sound_encoder: SoundEncoder) -> None:
    """By brute force on patches cut out by hand; the decoded spectrum consists of these codes."""
    clip = next(clip for clip in clips if clip.contacts)
    clip_input = sounds([clip])[0]
    indices, spectrum = sound_encoder.encode(clip_input), sound_encoder.spectrum(clip_input)
    decoded = sound_encoder.decode(indices)
    assert indices.shape == (T, 4, 2, 1)
    for frame in range(T):
        for band in range(4):
            for part in range(2):
                bins = slice(16 * band, 16 * band + 16)
                codebook = sound_encoder.codebooks[band].numpy()
                distances = np.square(codebook - spectrum[frame, bins, part]).sum(axis=1)
                chosen = indices[frame, band, part, 0]
                assert distances[chosen] <= distances.min() + 1e-2
                np.testing.assert_array_equal(decoded[frame, bins, part], codebook[chosen])


def test_contacts_change_tokens_and_silence_has_one(clips: list[TabletopClip], sound_encoder: SoundEncoder) -> None:
    """On clips that the codebooks were not fitted on."""
    silence = sound_encoder.encode(np.zeros((1, 200), np.float32))[0]
    audible, quiet = [], []
    for clip, clip_input in zip(clips[100:], sounds(clips[100:]), strict=True):
        differs = (sound_encoder.encode(clip_input) != silence).reshape(T, -1).any(axis=1)
        contacts = {contact.frame for contact in clip.contacts}
        ringing = {frame + after for frame in contacts for after in range(3)}
        audible += [bool(differs[frame]) for frame in contacts]
        quiet += [bool(differs[frame]) for frame in set(range(T)) - ringing]
    assert len(audible) > 40
    assert np.mean(audible) >= 0.95
    assert not any(quiet)


def test_a_codebook_for_each_band_is_more_accurate_than_one_for_all(
    clips: list[TabletopClip], sound_encoder: SoundEncoder
) -> None:
    patches = torch.cat(
        [sound_encoder._patches(sound_encoder.spectrum(clip_input)) for clip_input in sounds(clips[:100])]
    )
    shared = SoundEncoder(SOUND)
    shared.codebooks.copy_(kmeans_codebook(patches.flatten(0, 2), SOUND.codebook_size).expand_as(shared.codebooks))
    held_out = sounds(clips[100:])
    own, common = (error_metrics(encoder, held_out)["relative_error"] for encoder in (sound_encoder, shared))
    assert own < 0.5 * common


def test_fitting_again_gives_the_same(clips: list[TabletopClip], sound_encoder: SoundEncoder) -> None:
    again = SoundEncoder(SOUND)
    assert again.code_fingerprint != sound_encoder.code_fingerprint
    again.fit(sounds(clips[:100]))
    assert again.code_fingerprint == sound_encoder.code_fingerprint


def test_kmeans_finds_clusters_and_repeats_the_last_of_too_few_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(5, 3, generator=generator) * 100
    vectors = centres[torch.arange(97) % 5] + torch.randn(97, 3, generator=generator) * 0.01
    codebook = kmeans_codebook(vectors, 5)
    assert (torch.cdist(centres, codebook).min(dim=1).values < 0.1).all()
    few = kmeans_codebook(centres.repeat(3, 1), 7)
    assert torch.cdist(centres, few).min(dim=1).values.max() == 0


def test_defaults_come_from_the_data_set() -> None:
    dataset = DatasetInfo(("b", "a"), 12.5, lambda file: ("x", file))
    assert ClassEncoder.resolve_defaults(ClassConfig(), dataset).names == ("a", "b")
    assert StateEncoder.resolve_defaults(StateConfig(), dataset).columns == ("x", "states.csv")
    assert SoundEncoder.resolve_defaults(SoundConfig(), dataset).frame_rate == 12.5
    complete = SoundConfig(frame_rate=10.0)
    assert SoundEncoder.resolve_defaults(complete, dataset) is complete
    empty = DatasetInfo((), None, lambda file: ())
    with pytest.raises(DataError, match="needs classes, but this data set has none"):
        ClassEncoder.resolve_defaults(ClassConfig(), empty)
    with pytest.raises(DataError, match="needs frames with times"):
        SoundEncoder.resolve_defaults(SoundConfig(), empty)
    assert isinstance(build_control_encoder(complete), SoundEncoder)


@pytest.mark.parametrize(
    "build",
    [
        lambda: SoundConfig(window=100),
        lambda: SoundConfig(bands=3),
        lambda: SoundConfig(floor_db=3.0),
        lambda: SoundConfig(codebook_size=1),
        lambda: StateConfig(codebook_size=1),
        lambda: StateConfig(columns=("x", "x")),
        lambda: IntegerConfig("a.csv", "b", 0),
        lambda: IntegerConfig("a.csv", "b", 1 << 17),
        lambda: ClassConfig(("b", "a")),
    ],
)
def test_invalid_sizes_are_rejected(build: object) -> None:
    with pytest.raises(ConfigError, match=r"\(=|got"):
        build()  # type: ignore[operator]


def test_a_sound_of_another_length_is_rejected(sound_encoder: SoundEncoder) -> None:
    with pytest.raises(DataError, match=r"200 finite samples per frame, got shape \[3, 199\]"):
        sound_encoder.encode(np.zeros((3, 199), np.float32))
