"""Judges on trial: answers that people have judged, scored by judges and by metrics that need none."""
