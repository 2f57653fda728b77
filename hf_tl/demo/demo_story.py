"""What a page tells of how its model was made: the record of the run, as HTML in which every value is only text."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, UndefinedError
from markupsafe import Markup, escape

from hf_tl.card.phases import phase_row, stage_rows
from hf_tl.card.results import result_row
from hf_tl.errors import PublishError
from hf_tl.evaluation.metrics import MULTI_LABEL, PROBLEM_TYPES
from hf_tl.reporting.markdown import one_line
from hf_tl.reporting.numbers import duration, percent

CLASSES_SHOWN = 200
NEW_HEAD, ALL = "only the head was trained", "every stage was trained"


def tell_story(record: Mapping[str, Any], stages_figure: Path | None) -> Markup:
    """Write the story of a run.

    Args:
        record: what `run.json` holds.
        stages_figure: the picture of the stages, which becomes part of the HTML.

    Raises:
        PublishError: the record lacks something that is told.
    """
    try:
        figure = None if stages_figure is None else _embedded(stages_figure)
        return Markup(_TEMPLATE.render(_view(record), figure=figure))
    except (KeyError, UndefinedError) as error:
        raise PublishError(f"the model's story cannot be told: the record (run.json) lacks {error}") from error


def title_of(record: Mapping[str, Any]) -> str:
    """Name a model by its network and its data.

    Raises:
        PublishError: the record names none.
    """
    try:
        return one_line(f"{record['model']['architecture']} on {record['data']['name']}")
    except KeyError as error:
        raise PublishError(f"the model has no name: the record (run.json) lacks {error}") from error


def _view(record: Mapping[str, Any]) -> dict[str, Any]:
    model, data, recipes = record["model"], record["data"], record["strategy"]["phases"]
    problem = PROBLEM_TYPES[model["problem_type"]]
    figures = problem.figures_for(len(data["labels"]))
    frozen = [stage["name"] for stage in record["stages"] if not stage["trained_in_phases"]]
    return {
        "model": model,
        "data": data,
        "strategy": record["strategy"]["name"],
        "what_trained": _what_trained(len(frozen), len(record["stages"])),
        "is_multi_label": problem is MULTI_LABEL,
        "primary": problem.primary,
        "result": result_row(record, "test", problem, figures) if "test" in record["metrics"] else None,
        "is_pretrained": model["pretrained"] and not record["strategy"]["from_scratch"],
        "trained_share": percent(model["parameters_trained"] / max(model["parameters"], 1)),
        "train_images": (record.get("refit") or data["splits"]["train"])["images"],
        "time": duration(record["seconds"]["total"]),
        "phases": [phase_row(*pair) for pair in zip(recipes, record["phases"], strict=True)],
        "stages": stage_rows(record),
        "labels": data["labels"][:CLASSES_SHOWN],
        "texts": {"intended_use": None, "limits": None} | (record.get("card") or {}),
    }


def _what_trained(frozen: int, stages: int) -> str:
    if not frozen:
        return ALL
    return NEW_HEAD if frozen == stages - 1 else f"the last {stages - frozen} of {stages} stages were trained"


def _embedded(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _text(value: object) -> Markup:
    """Make a value text of one line; jinja calls it for each `{{ … }}`, so that no place can forget it."""
    return value if isinstance(value, Markup) else escape(one_line(value).replace(" %", "\N{NO-BREAK SPACE}%"))


def _breakable(name: object) -> Markup:
    """Let a long name go on in the next line after an underscore."""
    return _text(name).replace("_", Markup("_<wbr>"))


_ENVIRONMENT = Environment(finalize=_text, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_ENVIRONMENT.filters["breakable"] = _breakable
_TEMPLATE = _ENVIRONMENT.from_string("""
<section class="hf-tl">
<h2>How it was made</h2>
<dl>
{% if result %}
{% if is_multi_label %}
<div><dt>Test {{ primary.name }}</dt><dd>{{ result.primary }}<small>{{ result.images }} images; all decisions right on \
{{ result.accuracy }}{% if result.interval %} (95 % interval {{ result.interval }}){% endif %}</small></dd></div>
{% else %}
<div><dt>Test accuracy</dt><dd>{{ result.accuracy }}<small>\
{% if result.interval %}95 % interval {{ result.interval }}, {% endif %}{{ result.images }} images</small></dd></div>
{% endif %}
{% endif %}
<div><dt>Strategy</dt><dd>{{ strategy }}<small>{{ what_trained }}</small></dd></div>
<div><dt>Trained</dt><dd>{{ trained_share }}<small>{{ "{:,}".format(model.parameters_trained) }} of \
{{ "{:,}".format(model.parameters) }} parameters, in {{ time }}</small></dd></div>
<div><dt>Base model</dt><dd>{{ model.architecture | breakable }}<small>
{% if not is_pretrained %}
random weights
{% elif model.base_model %}
{{ model.base_model | breakable }}
{% else %}
pretrained weights
{% endif %}
</small></dd></div>
<div><dt>Data</dt><dd>{{ data.name | breakable }}<small>{{ "{:,}".format(train_images) }} training images, \
{{ data.labels | length }} classes</small></dd></div>
</dl>
{% if figure %}
<img src="{{ figure }}" alt="The stages of the network in forward order, frozen and trained">
{% endif %}
<ol>
{% for phase in phases %}
<li>{% if phase.epochs == "solved" %}Solved{% else %}Trained{% endif %} <code>{{ phase.first_stage }}</code>\
{% if phase.stages > 1 %} to <code>{{ phase.last_stage }}</code>{% endif %}: {{ phase.parameters }} parameters\
{% if phase.epochs != "solved" %}, {{ phase.epochs }}{% if "steps" not in phase.epochs %} epochs{% endif %} at a peak \
rate of {{ phase.learning_rate }}{% endif %}.</li>
{% endfor %}
</ol>
<details><summary>Stage by stage</summary>
<table><thead><tr><th>Stage</th><th>Parameters</th>{% for phase in phases %}<th>Phase {{ loop.index }}</th>{% endfor %}\
</tr></thead><tbody>
{% for stage in stages %}
<tr><td><code>{{ stage.name }}</code></td><td>{{ stage.parameters }}</td>\
{% for state in stage.states %}<td>{{ state }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></details>
<details><summary>Its {{ data.labels | length }} classes</summary><ul>
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
It gives each class a probability of its own, so they do not add up to one; a class counts as seen above one half.
{% else %}
It gives one of its classes for any image, also for an image of none of them.
{% endif %}
How it does on images unlike those of its data was not measured.
</p>
</section>
""")
