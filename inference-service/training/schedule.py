"""How far a training run has come, and its learning rate there.

A run ends after a number of updates or of minutes, whichever is first; the rate rises over the first
updates and falls to zero towards the end. Minutes are for machines that are busy with other work, where
nobody can say beforehand how many updates there will be; such a run cannot be repeated to the digit.
"""

import math
import time


class Schedule:
    """The rate by update number. `spent` is the seconds of earlier sittings of the same run."""

    def __init__(self, options, warm_up, start=0, spent=0.0):
        self.peak, self.steps, self.limit = options.rate, options.steps, options.minutes * 60
        self.warm_up, self.start, self.spent = warm_up, start, spent
        self.began = time.time()

    def seconds(self):
        return self.spent + time.time() - self.began

    def progress(self, step):
        """From 0 to 1, where the run ends."""
        by_clock = self.seconds() / self.limit if self.limit else 0.0
        return min(1.0, max(step / self.steps, by_clock))

    def rate(self, step):
        rising = min(1.0, (step - self.start + 1) / self.warm_up)
        return self.peak * rising * (0.5 * (1 + math.cos(math.pi * self.progress(step))) + 0.003)


def add_arguments(parser, steps, rate):
    """The options that both trainings share."""
    parser.add_argument("--steps", type=int, default=steps, help="updates")
    parser.add_argument("--minutes", type=float, default=0, help="end after this time, if updates take longer")
    parser.add_argument("--rate", type=float, default=rate, help="highest learning rate")
    parser.add_argument("--loaders", type=int, default=2, help="processes that make training pictures")
    parser.add_argument("--threads", type=int, default=2, help="threads of the network")
