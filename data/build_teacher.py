"""Train the digits teacher again and write it beside this file: ``python data/build_teacher.py`` (a minute)."""

from pathlib import Path

import torch
from tqdm.auto import tqdm

from labkit.models.encoder import DigitsEncoder
from labkit.training.teacher import TeacherTraining, cosine_by_place, digits_probe, probes, save

SEED = 0

if __name__ == "__main__":
    torch.set_num_threads(1)  # its seconds are those of one core
    training = TeacherTraining(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        untrained = probes(DigitsEncoder())  # the same weights as the training starts from
    for _ in tqdm(training):
        pass
    teacher = training.teacher
    measured = {
        "teacher": probes(teacher),
        "untrained": untrained,
        "pixels": digits_probe(lambda x: x),
        "cosine_by_place": cosine_by_place(teacher),
    }
    path = save(teacher, Path(__file__).parent, SEED, measured)
    print(teacher.cost.describe())
    print(f"linear probe on the 500 held-out digits: {measured}; written to {path}")
