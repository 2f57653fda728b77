"""Section of a model's web page about its training: the run record in HTML, with every value escaped."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from hf_tl.card.record_errors import record_errors
from hf_tl.card.sections.abstention import abstention_lines
from hf_tl.card.sections.phases import phase_row, stage_rows, trained_stages
from hf_tl.card.sections.results import result_row
from hf_tl.card.sections.training_images import learned_total
from hf_tl.evaluation.metrics import MULTI_LABEL, PROBLEM_TYPES
from hf_tl.record import Origin, RunRecord
from hf_tl.reporting.numbers import duration, percent
from hf_tl.reporting.plain import one_line

CLASSES_SHOWN = 200
STARTS = {
    "random": "random weights",
    "hub": "a model of the Hub",
    "file": "a weights file",
    "folder": "a local checkpoint",
    "trained": "trained before by hf_tl",
    "memory": "weights of unknown origin",
}


def tell_story(record: RunRecord, stages_figure: Path | None) -> Markup:
    """Render the section about a model's training.

    Args:
        record: Record of the run.
        stages_figure: Figure of the stages, embedded in the HTML.

    Raises:
        PublishError: The record lacks a value of the section, or is damaged.
    """
    figure = None if stages_figure is None else _embedded(stages_figure)
    with record_errors("the model's page cannot be written"):
        return Markup(_TEMPLATE.render(_view(record), figure=figure))


def title_of(record: RunRecord) -> str:
    """Return the title of a model: its architecture and its data."""
    return one_line(f"{record.model.architecture} on {record.data.name}")


def _view(record: RunRecord) -> dict[str, Any]:
    problem = PROBLEM_TYPES[record.model.problem_type]
    figures = problem.figures_for(len(record.data.labels))
    measured = record.measured.get("test")
    return {
        "model": record.model,
        "data": record.data,
        "strategy": record.strategy.name,
        "what_trained": trained_stages(record),
        "is_multi_label": problem is MULTI_LABEL,
        "primary": problem.primary,
        "result": None if measured is None else result_row(measured, problem, figures),
        "start": _start(record.start),
        "trained_share": percent(record.model.parameters_trained / max(record.model.parameters, 1)),
        "learned": learned_total(record),
        "time": duration(record.seconds.total),
        "phases": [phase_row(phase) for phase in record.phases],
        "stages": stage_rows(record),
        "labels": record.data.labels[:CLASSES_SHOWN],
        "texts": record.card,
        "abstention": abstention_lines(record.abstention).get("Accepted"),
    }


def _start(origin: Origin) -> str:
    """Return the name of the starting weights: the model of the Hub that they descend from, or their kind."""
    kind = STARTS[origin.kind]
    if origin.kind == "trained" and origin.is_random:
        kind += ", from random weights"
    if origin.base_model is None:
        return kind
    return origin.base_model if origin.kind == "hub" else f"{kind}, from {origin.base_model}"


def _embedded(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _text(value: object) -> Markup:
    """Escape a value as text of one line; jinja calls this for each `{{ … }}`, so that the template cannot miss one."""
    return value if isinstance(value, Markup) else escape(one_line(value))


def _breakable(name: object) -> Markup:
    """Allow a line break after the underscores of a long name."""
    return _text(name).replace("_", Markup("_<wbr>"))


_ENVIRONMENT = Environment(finalize=_text, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.filters["breakable"] = _breakable
_TEMPLATE = _ENVIRONMENT.from_string("""
<section class="hf-tl">
<h2>How the model was trained</h2>
<dl>
{% if result %}
{% if is_multi_label %}
<div><dt>Test {{ primary.name }}</dt><dd>{{ result.primary }}<small>{{ result.images }}; all labels right on \
{{ result.accuracy }}{% if result.interval %} (95% CI {{ result.interval }}){% endif %}\
{% if result.learned %}; {{ result.learned }}{% endif %}</small></dd></div>
{% else %}
<div><dt>Test accuracy</dt><dd>{{ result.accuracy }}<small>\
{% if result.interval %}95% CI {{ result.interval }}, {% endif %}{{ result.images }}\
{% if result.learned %}; {{ result.learned }}{% endif %}</small></dd></div>
{% endif %}
{% else %}
<div><dt>Test {{ primary.name }}</dt><dd>–<small>not evaluated</small></dd></div>
{% endif %}
<div><dt>Strategy</dt><dd>{{ strategy }}<small>{{ what_trained }}</small></dd></div>
<div><dt>Trained</dt><dd>{{ trained_share }}<small>{{ "{:,}".format(model.parameters_trained) }} of \
{{ "{:,}".format(model.parameters) }} parameters, in {{ time }}</small></dd></div>
<div><dt>Network</dt><dd>{{ model.architecture | breakable }}\
<small>starting weights: {{ start | breakable }}</small></dd></div>
<div><dt>Data</dt><dd>{{ data.name | breakable }}<small>trained on {{ learned }}, \
{{ data.labels | length }} classes</small></dd></div>
</dl>
{% if figure %}
<img src="{{ figure }}" alt="Stages of the network in forward order, frozen and trained">
{% endif %}
<ol>
{% for phase in phases %}
<li>{% if phase.is_solved %}Solved{% else %}Trained{% endif %} <code>{{ phase.first_stage }}</code>\
{% if phase.has_several %} to <code>{{ phase.last_stage }}</code>{% endif %}: {{ phase.parameters }} parameters\
{% if not phase.is_solved %}, {{ phase.length }} at a peak learning rate of {{ phase.learning_rate }}{% endif %}.</li>
{% endfor %}
</ol>
<details><summary>Stages</summary>
<table><thead><tr><th>Stage</th><th>Parameters</th>{% for phase in phases %}<th>Phase {{ loop.index }}</th>{% endfor %}\
</tr></thead><tbody>
{% for stage in stages %}
<tr><td><code>{{ stage.name }}</code></td><td>{{ stage.parameters }}</td>\
{% for state in stage.states %}<td>{{ state }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></details>
<details><summary>{{ data.labels | length }} classes</summary><ul>
{% for label in labels %}
<li>{{ label }}</li>
{% endfor %}
{% if data.labels | length > labels | length %}
<li>and {{ data.labels | length - labels | length }} more</li>
{% endif %}
</ul></details>
{% for text in (texts.intended_use, texts.limits) if text %}
<p>{{ text }}</p>
{% endfor %}
<p>
{% if is_multi_label %}
The model gives each label a probability of its own (they do not add up to one) and predicts those above 0.5.
{% elif abstention %}
The model gives no class to images unlike its training images. Accepted: {{ abstention }}.
{% else %}
The model predicts one of its classes for every image, including images that show none of them.
{% endif %}
Accuracy on images unlike those of its data was not evaluated.
</p>
</section>
""")
