"""The page behind a one-time link: self-contained HTML without scripts. Pure but for its type.

Everything shown comes from elsewhere and is escaped; the policy for the browser allows the one
style sheet below and a form to this very origin, and nothing else. The address is a secret, so
that it is neither kept by the browser nor passed on as a referrer.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from starlette.responses import Response

from modelplane.decisions.approval_answers import MAX_REASON
from modelplane.errors import InvalidResource, ModelplaneError
from modelplane.resources.approval import Approval
from modelplane.resources.gate_run import Measurement, StageResult

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem;"
    "color:#1c2024;background:#fff}h1{font-size:1.4rem}table{border-collapse:collapse;width:100%;"
    "margin:1rem 0}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;"
    "vertical-align:top;overflow-wrap:anywhere}th{width:10rem;font-weight:600}"
    "textarea{width:100%;box-sizing:border-box;font:inherit}label{display:block;margin-top:1rem}"
    "button{font:inherit;padding:.5rem 1.2rem;margin:1rem .6rem 0 0;border:1px solid #444;"
    "border-radius:.3rem;cursor:pointer}.approve{background:#0b6b3a;color:#fff}"
    ".reject{background:#fff;color:#a11}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-robots-tag": "noindex, nofollow",
}
_MAX_MEASUREMENTS = 40


@dataclass(frozen=True, slots=True)
class Page:
    """What a page says: its title (text) and its body (HTML, escaped already)."""

    title: str
    body: str
    status: int = 200

    @classmethod
    def of_question(cls, approval: Approval, subject: str, results: Sequence[StageResult]) -> Page:
        """Return the page that asks `subject`."""
        spec = approval.spec
        title = f"Approve {spec.model} {spec.version} for {approval.metadata.environment}?"
        facts = (
            ("Model", spec.model),
            ("Version", spec.version),
            ("Environment", approval.metadata.environment or ""),
            ("Promotion", spec.promotion),
            ("Policy", f"{spec.policy} ({spec.team})" if spec.team else spec.policy),
            ("Made by", spec.author),
            ("Asked for by", spec.requester),
            ("You answer as", subject),
            ("Revision", spec.revision_digest),
            ("Open until", f"{spec.expires_at:%Y-%m-%d %H:%M}Z"),
        )
        return cls(title, f"{_table(facts)}{_show_results(results)}{_FORM}")

    @classmethod
    def of_answer(cls, approval: Approval, decision: str) -> Page:
        """Return the page that confirms an answer."""
        said = "Approved" if decision == "approve" else "Rejected"
        spec = approval.spec
        what = f"{spec.model} {spec.version} for {approval.metadata.environment}"
        body = f"<p>{escape(what)}: {escape(approval.status.message)}.</p>"
        return cls(f"{said}. Thank you.", f"{body}<p>This link is used up now.</p>")

    @classmethod
    def of_error(cls, error: ModelplaneError) -> Page:
        """Return the page that says why a link does nothing."""
        faults = error.fields if isinstance(error, InvalidResource) else ()
        texts = [error.message, *(fault.message for fault in faults), error.hint]
        body = "".join(f"<p>{escape(text)}</p>" for text in texts if text)
        return cls("This did not work", body, error.status)


def render_page(page: Page) -> Response:
    """Return the answer that shows `page`."""
    title = escape(page.title)
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{title}</h1>{page.body}</main></body></html>"
    )
    return Response(html, page.status, HEADERS, "text/html; charset=utf-8")


_FORM = (
    # Without an action the form goes to the page's own address.
    '<form method="post"><label for="reason">Reason (a rejection needs one)</label>'
    f'<textarea id="reason" name="reason" rows="4" maxlength="{MAX_REASON}"></textarea>'
    '<button class="approve" name="decision" value="approve">Approve</button>'
    '<button class="reject" name="decision" value="reject">Reject</button></form>'
)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>'
        for name, text in rows
        if text
    )
    return f"<table>{cells}</table>"


def _show_results(results: Sequence[StageResult]) -> str:
    if not results:
        return "<p>No results of gates stand behind this request.</p>"
    rows = []
    for result in results:
        outcome = result.spec.outcome
        said = "passed" if outcome.passed else "failed"
        shown = [m for m in outcome.measurements if not m.slice][:_MAX_MEASUREMENTS]
        numbers = ", ".join(map(_show_measurement, shown))
        text = "; ".join(filter(None, (said, outcome.message, numbers)))
        rows.append((f"{result.spec.stage} ({result.spec.check})", text))
    return f"<h2>What the gates found</h2>{_table(rows)}"


def _show_measurement(measurement: Measurement) -> str:
    champion = measurement.champion
    beside = f" (champion {champion:.6g})" if champion is not None else ""
    return f"{measurement.name} {measurement.value:.6g}{beside}"
