"""Every class of attacks, as data: what it tries, and the guard that stops it."""

from __future__ import annotations

from functools import partial

from benchmarks.attacks import asking, connecting, reloading
from benchmarks.attacks.bombs import TABLES
from benchmarks.attacks.planting import BUNDLES
from benchmarks.attacks.trials import Attack
from benchmarks.attacks.wire import asks, floods, head, hold, stream, texts_body, whole

LIVE = whole("GET", "/health/live")
GET = head("GET", "/")
CHUNKED = head("POST", "/predict", "transfer-encoding: chunked") + b"\r\n"
ONE_TEXT = texts_body(["a fine film " * 3000])
TEXT = whole(body=texts_body(["a fine film"]))
_LOG, _TOKENS, _ADMIN = frozenset({"log"}), frozenset({"tokens"}), frozenset({"admin"})

HEADS = tuple(
    Attack(name, "heads", tries, guard, act)
    for name, tries, guard, act in (
        (
            "endless_value",
            "a header value without end",
            "head_bytes",
            partial(stream, start=head("GET", "/") + b"x: ", piece=b"a"),
        ),
        ("endless_name", "a header name without end", "head_bytes", partial(stream, start=head("GET", "/"), piece=b"a")),
        ("endless_target", "a request target without end", "head_bytes", partial(stream, start=b"GET /", piece=b"a")),
        (
            "endless_blank_lines",
            "line ends in place of a request, without end",
            "blank_lines",
            partial(hold, start=LIVE, drip=b"\r\n" * 2000, drip_s=0.05, connections=10),
        ),
        (
            "many_headers",
            "thousands of headers in few bytes",
            "header_count",
            asks(LIVE[:-2] + b"a:\r\n" * 6000 + b"\r\n", expected=(431,), times=5),
        ),
        ("head_in_drops", "a head that comes byte by byte", "message_clock", partial(hold, start=b"GET /", drip=b"a")),
        ("head_that_stops", "a head that stops in the middle", "message_time", partial(hold, start=head("GET", "/"))),
        (
            "endless_trailers",
            "trailers without end after a chunked body",
            "head_bytes",
            partial(stream, start=CHUNKED + b"0\r\nx: ", piece=b"a"),
        ),
        (
            "endless_extensions",
            "extensions of a chunk without end",
            "discarded_bytes",
            partial(stream, start=CHUNKED + b"5;", piece=b"a"),
        ),
    )
)

BODIES = tuple(
    Attack(name, "bodies", tries, guard, act)
    for name, tries, guard, act in (
        (
            "endless_chunks",
            "a chunked body without end",
            "body_bytes",
            partial(stream, start=CHUNKED, piece=b"8000\r\n" + b"a" * 0x8000 + b"\r\n"),
        ),
        (
            "tiny_chunks",
            "a body in chunks of one byte, which cost more to parse than to send",
            "chunk_count",
            asks(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in ONE_TEXT) + b"0\r\n\r\n", expected=(400,), times=3),
        ),
        (
            "declared_terabyte",
            "a body that declares a terabyte, and comes",
            "body_bytes",
            partial(stream, start=head("POST", "/predict", "content-length: 1000000000000") + b"\r\n", piece=b"a"),
        ),
        (
            "body_of_a_get",
            "a body without end on a route that reads none",
            "discarded_body",
            partial(
                stream,
                start=head("GET", "/health/live", "transfer-encoding: chunked") + b"\r\n",
                piece=b"2000\r\n" + b"a" * 0x2000 + b"\r\n",
            ),
        ),
        (
            "body_after_refusal",
            "a body without end after a refusal on the head",
            "discarded_body",
            partial(stream, start=head("POST", "/nowhere", "content-length: 1000000000") + b"\r\n", piece=b"a"),
        ),
        (
            "bodies_at_once",
            "as many large bodies as connections, each almost whole",
            "all_bodies",
            partial(
                hold, start=head("POST", "/predict", "content-length: 2000000") + b"\r\n" + b"a" * 1_900_000, connections=60
            ),
        ),
        (
            "body_in_drops",
            "a body that comes byte by byte",
            "message_clock",
            partial(hold, start=head("POST", "/predict", "content-length: 1000") + b"\r\n", drip=b"a"),
        ),
        (
            "body_that_stops",
            "a body that stops in the middle",
            "message_time",
            partial(hold, start=head("POST", "/predict", "content-length: 1000") + b"\r\n{"),
        ),
        (
            "discarded_body_that_stops",
            "a refused body that stops, so that its connection stays",
            "message_time",
            partial(hold, start=head("POST", "/nowhere", "content-length: 1000") + b"\r\n{"),
        ),
    )
)

FRAMING = tuple(
    Attack(name, "framing", tries, guard, act)
    for name, tries, guard, act in (
        (
            "both_lengths",
            "content-length and transfer-encoding, and a request smuggled between",
            "strict_parser",
            asks(
                head("POST", "/predict", "content-length: 6", "transfer-encoding: chunked") + b"\r\n0\r\n\r\n" + LIVE,
                expected=(400,),
                times=20,
            ),
        ),
        (
            "unknown_encoding",
            "a transfer-encoding that is not chunked at its end",
            "strict_parser",
            asks(
                head("POST", "/predict", "transfer-encoding: chunked, identity") + b"\r\n0\r\n\r\n" + LIVE,
                expected=(400,),
                times=20,
            ),
        ),
        (
            "spaces_in_chunk_size",
            "a chunk size followed by spaces, which others read differently",
            "strict_parser",
            asks(CHUNKED + b"2 \r\n{}\r\n0\r\n\r\n" + LIVE, expected=(400,), times=20),
        ),
        (
            "bare_line_ends",
            "line feeds alone in a head, which others read differently",
            "strict_parser",
            asks(LIVE.replace(b"\r\n", b"\n"), expected=(400,), times=20),
        ),
        (
            "unended_chunk",
            "a chunk without its line end, to hide a request in",
            "strict_parser",
            asks(CHUNKED + b"2\r\n{}0\r\n\r\n" + LIVE, expected=(400,), times=20),
        ),
        (
            "folded_header",
            "a header that goes on in the next line, to hide one",
            "strict_parser",
            asks(GET + b" x: b\r\n\r\n", expected=(400,), times=20),
        ),
        (
            "control_characters",
            "a zero byte in a header value",
            "strict_parser",
            asks(head("GET", "/health/live", "x: a\0b") + b"\r\n", expected=(400,), times=20),
        ),
        (
            "tls_on_plain",
            "TLS on a port that has none",
            "refusal_ends",
            partial(hold, start=b"\x16\x03\x01garbage\r\n\r\n", connections=10),
        ),
        (
            "stray_bytes",
            "bytes between two requests that are no request",
            "refusal_ends",
            partial(hold, start=LIVE + b"\x00\xff\r\n\r\n" + LIVE, connections=10),
        ),
        (
            "http2_preface",
            "the preface of HTTP/2 on a server of HTTP/1.1",
            "refusal_ends",
            partial(hold, start=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), connections=10),
        ),
        (
            "upgrade",
            "an upgrade to another protocol, and then silence",
            "upgraded_ends",
            partial(
                hold,
                start=head("GET", "/health/live", "connection: upgrade", "upgrade: websocket") + b"\r\nabc",
                connections=10,
            ),
        ),
    )
)

CONNECTIONS = tuple(
    Attack(name, "connections", tries, guard, act)
    for name, tries, guard, act in (
        ("idle_herd", "many connections that never ask", "all_connections", connecting.idle_herd),
        ("herd_of_one_address", "all places taken by one address", "connections_per_address", connecting.herd_of_one_address),
        ("silent_connections", "connections that send nothing and stay", "idle_time", partial(hold, start=b"")),
        ("stray_line_end", "a line end after an answer, to stay for ever", "idle_time", partial(hold, start=LIVE + b"\r\n")),
        ("connection_flood", "connections opened and closed as fast as possible", "freed_places", connecting.connection_flood),
        ("half_closed", "connections whose sending half is closed", "end_of_sending", connecting.half_closed),
        ("gone_clients", "requests whose clients leave at once", "gone_clients", connecting.gone_clients),
        (
            "absent_reader",
            "pipelined requests whose answers are never read",
            "unread_bytes",
            partial(hold, start=whole("GET", "/docs") * 1000, reads=False),
        ),
        ("slow_reader", "pipelined requests whose answers are read byte by byte", "message_time", connecting.slow_reader),
        ("full_house", "all places taken, for newcomers to find none", "places_for_new", connecting.full_house),
    )
)

PIPELINES = tuple(
    Attack(name, "pipelines", tries, guard, act)
    for name, tries, guard, act in (
        (
            "pipelined_texts",
            "thousands of large requests on one connection before the first answer",
            "paused_reading",
            connecting.pipelined_texts,
        ),
    )
)

TEXTS = tuple(
    Attack(name, "texts", tries, guard, act)
    for name, tries, guard, act in (
        (
            "many_texts",
            "half a million texts in one request",
            "text_count",
            asks(whole(body=b'{"inputs":[' + b'["a"],' * 300_000 + b'["a"]]}'), expected=(422,)),
        ),
        (
            "long_text",
            "a text of two million characters",
            "text_chars",
            asks(whole(body=texts_body(["a b " * 500_000])), expected=(422,)),
        ),
        (
            "flood_of_long_texts",
            "texts of 100,000 characters, many at once",
            "beginnings",
            floods(whole(body=texts_body(["good film " * 9_999])), connections=12),
        ),
        (
            "flood_of_cjk",
            "texts of 100,000 characters that are a token each",
            "beginnings",
            floods(whole(body=texts_body(["電影很好看" * 19_999])), connections=12),
        ),
        (
            "full_requests",
            "requests of as many texts as are accepted",
            "turns",
            floods(whole(body=texts_body(["a fine film of two hours"] * 1024)), connections=16),
        ),
        (
            "flood_of_texts",
            "more requests than can be answered",
            "turns",
            floods(whole(body=texts_body(["a fine film of two hours"] * 30)), connections=90),
        ),
        (
            "pairs_among_texts",
            "pairs of texts among single texts",
            "own_errors",
            floods(whole(body=texts_body([["a", "b"]])), TEXT, connections=16, allowed=(200, 422, 429), pause_s=0.01),
        ),
        (
            "deep_json",
            "a hundred thousand nested lists",
            "strict_json",
            asks(whole(body=b'{"inputs":' + b"[" * 100_000), allowed=(400, 422)),
        ),
        (
            "broken_utf8",
            "bytes that are no UTF-8, and half of a surrogate pair",
            "strict_json",
            asks(whole(body=b'{"inputs": "\xff\xfe"}'), expected=(400,), times=20),
        ),
        (
            "name_twice",
            "a body with one name twice, of which parsers take either",
            "unique_names",
            asks(whole(body=b'{"inputs": "good", "inputs": "bad"}'), expected=(400,), times=20),
        ),
        ("lying_tensor", "a tensor that declares more than it has", "strict_json", asking.lying_tensors),
    )
)

TEXTS += (
    Attack(
        "one_long_word",
        "texts",
        "words of 100,000 letters, each of which is decomposed",
        "turns",
        floods(whole(body=f'{{"inputs": "{"한" * 99_999}", "truncate": true}}'.encode()), connections=48),
        flags={"--threads": "1"},  # however many processors there are
    ),
)

ACCESS = (
    Attack("token_guessing", "access", "tokens that are nearly right", "tokens", asking.token_guessing, _TOKENS),
    Attack("admin_probing", "access", "admin routes without their token", "admin_tokens", asking.admin_probing, _ADMIN),
    Attack(
        "rebinding",
        "access",
        "a page's own name for the loopback address",
        "host_names",
        asks(whole("GET", "/info", "Host: evil.example:8080"), expected=(421,), times=20),
    ),
    Attack("foreign_origin", "access", "another origin that reads answers", "origins", asking.foreign_origin),
    Attack("forged_address", "access", "a client that names another address", "forwarded", asking.forged_address, _LOG),
    Attack(
        "forged_log_line",
        "access",
        "line ends in a path, to forge log lines",
        "log_lines",
        asking.forged_log_line,
        _LOG,
    ),
    Attack("forged_request_id", "access", "control characters in a request id", "request_ids", asking.forged_request_id, _LOG),
    Attack(
        "path_traversal",
        "access",
        "paths out of the server's own, in every spelling",
        "fixed_routes",
        asking.path_traversal,
    ),
    Attack("distinct_paths", "access", "hundred thousand paths that do not exist", "cached_paths", asking.distinct_paths),
    Attack("distinct_labels", "access", "names that would be series of the metrics", "metric_labels", asking.distinct_labels),
)

HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The start of a TLS handshake."""

TLS = tuple(
    Attack(name, "TLS", tries, "handshakes", act, frozenset({"tls"}))
    for name, tries, act in (
        ("silent_handshakes", "connections that begin no handshake", partial(hold, start=b"", is_plain=True)),
        ("handshakes_that_stop", "handshakes that stop in their first message", partial(hold, start=HELLO, is_plain=True)),
        (
            "handshakes_in_drops",
            "handshakes that come byte by byte",
            partial(hold, start=HELLO, drip=b"\x00", is_plain=True),
        ),
        ("herd_of_handshakes", "more handshakes than connections are allowed", connecting.idle_herd),
    )
)

RELOADS = (
    Attack("reload_storm", "reloads", "many reloads at once", "few_reloads", reloading.reload_storm, _ADMIN),
    Attack("signal_storm", "reloads", "many SIGHUP at once", "few_signals", reloading.signal_storm),
)

ATTACKS = (*HEADS, *BODIES, *FRAMING, *CONNECTIONS, *PIPELINES, *TEXTS, *ACCESS, *TLS, *RELOADS, *BUNDLES, *TABLES)
