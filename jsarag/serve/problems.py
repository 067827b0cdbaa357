"""Every failure as ``{"error", "error_type"}`` with its status; nothing of the input is echoed."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from jsarag.serve.batching import NotRunningError, OverloadedError

_TYPES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    413: "payload_too_large",
    415: "unsupported_media_type",
    421: "misdirected_request",
    422: "validation_error",
    429: "overloaded",
    500: "internal_error",
    503: "unavailable",
}


def problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error response."""
    return JSONResponse(problem_body(status, message), status, headers=dict(headers or {}))


def problem_body(status: int, message: str) -> dict[str, str]:
    """An error response's content."""
    return {"error": message, "error_type": _TYPES.get(status, "http_error")}


def install_handlers(app: FastAPI) -> None:
    """Give every failure of an app its shape and status."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(OverloadedError, _overloaded)
    app.add_exception_handler(NotRunningError, _not_running)
    app.add_exception_handler(500, _internal)


def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), error.headers)


def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and not (kind == "application/json" or kind.endswith("+json")):
        # Without that header the body is not even read as JSON.
        return problem(415, "expected the header 'Content-Type: application/json'")
    if any(item["type"] == "json_invalid" for item in found):
        return problem(400, "the body is not valid JSON")
    # Not the input: it may be large, and half of a surrogate pair cannot even be encoded. Field
    # names come from the client, too.
    parts = [
        f"{'.'.join(str(part) for part in item['loc'][1:]) or 'body'}: {item['msg']}"
        for item in found
    ]
    message = "; ".join(parts)[:2000]
    return problem(422, message.encode("utf-8", "replace").decode())


def _overloaded(_: Request, error: Exception) -> Response:
    assert isinstance(error, OverloadedError)
    return problem(429, str(error), {"Retry-After": str(error.retry_after_s)})


def _not_running(_: Request, error: Exception) -> Response:
    return problem(503, str(error), {"Retry-After": "1"})


def _internal(_: Request, error: Exception) -> Response:
    # The message may name files; it stands in the log, which the framework writes.
    return problem(500, "internal error; the server's log says more")
