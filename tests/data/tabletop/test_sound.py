"""Tabletop's sound: a tone of the object's pitch at each contact, silence before."""

from __future__ import annotations

import numpy as np

from tokenreel.data.tabletop.clip import TabletopClip, TabletopConfig, tabletop_clip


def _with_contact() -> TabletopClip:
    config = TabletopConfig(height=11, width=11, frames=31, sample_rate=8009)
    clips = (tabletop_clip(config, index) for index in range(50))
    return next(clip for clip in clips if clip.contacts and clip.contacts[0].frame < 20)


def test_a_contact_sounds_at_its_frame_with_the_pitch_of_its_object() -> None:
    clip = _with_contact()
    contact = clip.contacts[0]
    first = round(contact.frame / clip.config.frame_rate * clip.sample_rate)
    assert not clip.sound[:first].any()
    tone = clip.sound[first : first + clip.sample_rate // 10]  # one frame long, before the next contact
    strength = np.abs(np.fft.rfft(tone, n=clip.sample_rate))  # one bin for each hertz
    assert abs(int(strength.argmax()) - clip.scene.kinds[contact.object].pitch) < 5


def test_sound_lasts_as_long_as_the_frames() -> None:
    clip = _with_contact()
    assert clip.sound.shape == (round(31 / 10 * 8009),)
    assert np.abs(clip.sound).max() <= 1


def test_a_contact_in_the_last_frame_is_cut_off_at_the_end() -> None:
    clip = _with_contact()
    short = tabletop_clip(TabletopConfig(11, 11, clip.contacts[0].frame + 1, sample_rate=8009), clip.index)
    assert short.contacts == clip.contacts[: len(short.contacts)]
    assert np.array_equal(short.sound, clip.sound[: len(short.sound)])
