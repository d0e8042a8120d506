"""Train the classifiers of digits and letters again and write them beside this file.

python data/build_classifier.py digits     10 seconds
python data/build_classifier.py letters    two minutes of one core
"""

import sys
from pathlib import Path

from labkit.metrics import CLASSIFIERS, classifier

if __name__ == "__main__":
    seed = 0
    for name in sys.argv[1:] or CLASSIFIERS:
        model = classifier.train(CLASSIFIERS[name], seed)
        path = classifier.save(model, Path(__file__).parent, seed)
        print(f"{model.held_out_accuracy:.1%} of the held-out {name} right; written to {path}")
