"""What the classifier must beat: always the commoner type, the question's words, a line through embeddings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tuneproof.types.annotate import TYPES

_FIRST = re.compile(r"\b(?:who|whom|whose|when|where|which|what|why|how)\b.*", re.IGNORECASE | re.DOTALL)
_MEASURED = (
    "name|names|number|year|date|day|month|time|age|city|country|state|place|address|price|cost|fee|amount|size|length|"
    "weight|height|speed|percentage|rate|value|version|port|capital|population|colour|color|title|length"
)
_FACTUAL = re.compile(
    r"(?:who|whom|whose|when|where|which)\b"
    r"|how (?:many|much|long|old|often|far|big|large|tall|high|fast|deep|soon|late|early)\b"
    rf"|what(?:'s|’s| is| was| are| were)? (?:the )?(?:\w+ )?(?:{_MEASURED})\b",
    re.IGNORECASE,
)
_YES_OR_NO = re.compile(
    r"(?:is|are|was|were|am|do|does|did|can|could|has|have|had|will|would|should|may|must)\b", re.IGNORECASE
)


def majority(train_types: Sequence[str], n: int) -> Any:
    """Return the share of factual questions in training, n times."""
    import numpy as np

    return np.full(n, Counter(train_types)["factual"] / len(train_types))


def question_words(questions: Sequence[str]) -> Any:
    """Return 1.0 where a question's words ask for a name, a number, a time, a place, or yes or no; else 0.0.

    The first question word decides: "why does it stop when it rains" asks why.
    """
    import numpy as np

    return np.array([float(_asks_for_a_fact(q.strip())) for q in questions])


def _asks_for_a_fact(question: str) -> bool:
    if _YES_OR_NO.match(question):
        return True
    first = _FIRST.search(question)
    return bool(first and _FACTUAL.match(first[0]))


def embedding_line(train: Any, train_types: Sequence[str], test: Any, seed: int) -> Any:
    """Return the probability of factual after a logistic regression on embeddings; both types weigh the same."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    labels = [TYPES.index(t) for t in train_types]
    if len(set(labels)) == 1:
        return np.full(len(test), float(labels[0]))
    line = LogisticRegression(class_weight="balanced", max_iter=1000, random_state=seed).fit(train, labels)
    return line.predict_proba(test)[:, 1]
