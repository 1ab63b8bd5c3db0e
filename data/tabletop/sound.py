"""The sound of a Tabletop clip: a short tone at each contact, at the pitch of the object touched."""

from __future__ import annotations

import numpy as np

from tokenreel.data.tabletop.motion import Contact
from tokenreel.data.tabletop.scene import Scene, TabletopConfig

LENGTH = 0.25  # seconds of a tone
DECAY = 0.06  # seconds in which it falls to 1/e
ATTACK = 0.005  # seconds in which it rises; without it there is an audible click
LEVEL = 0.3  # of a single tone; full scale is 1


def sound_track(config: TabletopConfig, scene: Scene, contacts: tuple[Contact, ...]) -> np.ndarray:
    """float32 [samples] in [-1, 1], as long as the video; the tone of a contact starts with its frame."""
    samples = round(config.frames / config.frame_rate * config.sample_rate)
    soundtrack = np.zeros(samples)
    for contact in contacts:
        first = round(contact.frame / config.frame_rate * config.sample_rate)
        tone = _tone(scene.kinds[contact.object].pitch, config.sample_rate)[: samples - first]
        soundtrack[first : first + len(tone)] += tone
    return np.clip(soundtrack, -1, 1).astype(np.float32)


def _tone(pitch: float, sample_rate: int) -> np.ndarray:
    time = np.arange(round(LENGTH * sample_rate)) / sample_rate
    envelope = np.minimum(time / ATTACK, 1) * np.exp(-time / DECAY)
    return LEVEL * envelope * np.sin(2 * np.pi * pitch * time)
