"""The HTTP API: requests, answers and errors."""

import json
import shutil
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest

from fairseq_resmlp.inference.translator import Translator
from fairseq_resmlp.server.models import MAX_LEN_A, MAX_LEN_B
from support.server import KING, WOMEN, served
from support.texts import EDGE_CASES

BEAM = 3  # of the fixture `server`
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def expected(exported_models):
    """A function that returns the result of `Translator` for a text."""
    translator = Translator.load(str(exported_models / "float32"))
    lengths = {"max_len_a": MAX_LEN_A, "max_len_b": MAX_LEN_B}

    def translate(text):
        options = {"beam": BEAM, "n_best": BEAM, "alignments": True, "split_sentences": True, **lengths}
        return translator.translate_batch([text], **options)[0]

    return translate


def poll(condition):
    """Wait until a condition holds. A search that waits for `steps` fails later."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# POST /translate


def test_a_text_is_translated(server, expected):
    answer = server.translate(KING)
    assert (answer.status, answer.json) == (200, {"translatedText": expected(KING).text})


def test_a_list_is_translated_in_order(server, expected):
    texts = [WOMEN, "", KING, "  ", WOMEN]
    answer = server.translate(texts, alternatives=2)
    assert answer.json["translatedText"] == [expected(text).text for text in texts]
    assert answer.json["alternatives"] == [[other.text for other in expected(text).hypotheses[1:]] for text in texts]
    assert server.translate([]).json == {"translatedText": []}


def test_alternatives_are_the_next_best_translations(server, expected):
    answer = server.translate(KING, alternatives=1)
    best, second, _ = (hypothesis.text for hypothesis in expected(KING).hypotheses)
    assert answer.json == {"translatedText": best, "alternatives": [second]}


def test_line_breaks_stay_as_they_are(server, expected):
    text = f"{KING} {WOMEN}\n\n\t{WOMEN}\r\n{KING}\n"
    king, women = expected(KING).text, expected(WOMEN).text
    assert server.translate(text).json["translatedText"] == f"{king} {women}\n\n\t{women}\r\n{king}\n"


PARAMETERS = {"q": KING, "source": "en", "target": "de", "alternatives": "1"}
MULTIPART = "".join(
    f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in PARAMETERS.items()
)


@pytest.mark.parametrize(
    "query, body, headers",
    [
        ("", urllib.parse.urlencode(PARAMETERS), FORM),
        ("", f"{MULTIPART}--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}),
        (urllib.parse.urlencode(PARAMETERS), None, {}),
        ("source=en&target=de", urllib.parse.urlencode({"q": KING, "alternatives": 1}), FORM),
        ("", {**PARAMETERS, "alternatives": 1}, {}),
        ("", {**PARAMETERS, "alternatives": 1.0, "format": "text", "secret": "ignored"}, {}),
    ],
    ids=["form", "multipart", "query", "query and form", "JSON", "JSON with more"],
)
def test_parameters_can_be_sent_in_several_ways(server, query, body, headers, expected):
    answer = server.post(f"/translate?{query}", body, headers=headers)
    best, second, _ = (hypothesis.text for hypothesis in expected(KING).hypotheses)
    assert answer.json == {"translatedText": best, "alternatives": [second]}


def test_repeated_parameters_are_a_list(server, expected):
    body = urllib.parse.urlencode([("q", KING), ("q", WOMEN), ("source", "en"), ("target", "de")])
    answer = server.post("/translate", body, headers=FORM)
    assert answer.json["translatedText"] == [expected(KING).text, expected(WOMEN).text]


def test_the_source_language_can_be_detected(server):
    answer = server.translate(KING, source="auto").json
    assert answer["translatedText"] == server.translate(KING).json["translatedText"]
    assert answer["detectedLanguage"]["language"] == "en" and answer["detectedLanguage"]["confidence"] > 50
    assert len(server.translate([KING, ""], source="auto").json["detectedLanguage"]) == 2


def test_any_text_has_a_translation(server):
    for texts in (EDGE_CASES[: len(EDGE_CASES) // 2], EDGE_CASES[len(EDGE_CASES) // 2 :]):
        answer = server.translate([text[:40] for text in texts])
        assert answer.status == 200 and len(answer.json["translatedText"]) == len(texts)


INVALID = [
    ({}, "invalid parameter q: field required"),
    ({"q": KING, "target": "de"}, "invalid parameter source: field required"),
    ({"q": KING, "source": "en", "target": "fr"}, "no model translates from 'en' to 'fr': available are en to de"),
    ({"q": KING, "source": "de", "target": "en"}, "no model translates from 'de' to 'en': available are en to de"),
    ({"q": KING, "source": "auto", "target": "x"}, "no model translates from 'auto' to 'x': available are en to de"),
    ({"q": KING, "source": "en", "target": "de", "model": "big"}, "no model named 'big' translates from 'en' to 'de'"),
    ({"q": 1, "source": "en", "target": "de"}, "invalid parameter q: input should be a valid string"),
    ({"q": [KING, None], "source": "en", "target": "de"}, "invalid parameter q: input should be a valid string"),
    ({"q": KING, "source": "en", "target": "de", "alternatives": -1}, "invalid parameter alternatives"),
    ({"q": KING, "source": "en", "target": "de", "alternatives": 3}, "alternatives is 3, but the maximum is 2"),
    ({"q": KING, "source": "en", "target": "de", "alternatives": 10**40}, "alternatives is 1e+40, but"),
    ({"q": KING, "source": "en", "target": "de", "format": "html"}, "format html is not supported: send text"),
    ({"q": KING, "source": "\ud800" * 500, "target": "de"}, "no model translates from '\ufffd"),
    ([], "the body is not a JSON object"),
    ("{", "the body is not JSON"),
    ("[" * 50_000, "the body is not JSON"),
    (b"\xff", "the body is not JSON"),
    (f'{{"q": {"9" * 5000}}}', "the body is not JSON"),
]


@pytest.mark.parametrize("body, message", INVALID, ids=[message[:30] for _, message in INVALID])
def test_an_invalid_request_is_refused_with_a_reason(server, body, message):
    answer = server.post("/translate", body)
    assert answer.status == 400
    assert list(answer.json) == ["error"] and answer.json["error"].startswith(message)
    assert len(answer.json["error"]) < 200


@pytest.mark.parametrize(
    "body",
    [
        "--x",
        "--x\r\n\r\n",
        '--x\r\nContent-Disposition: form-data; name="q"; filename="/dev/zero"\r\n\r\na\r\n--x--\r\n',
    ],
)
def test_a_malformed_form_and_files_are_refused(server, body):
    answer = server.post("/translate", body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status == 400 and "error" in answer.json


# POST /stream


def test_a_stream_grows_and_ends_with_the_whole_result(exported_models, expected):
    steps = threading.Semaphore(0)
    with served(exported_models / "float32", beam=BEAM, steps=steps) as server:
        connection = server.connect()
        connection.request("POST", "/stream", f'{{"q": "{KING}", "source": "en", "target": "de"}}')
        response = connection.getresponse()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.readline() == b"event: start\n"
        seen = set()
        while len(seen) < 3:
            steps.release()
            line = response.readline()
            if b"translatedText" in line:
                seen.add(line)
        steps.release(1000)
        assert b"event: result\n" in response.read()
        connection.close()


def test_the_result_of_a_stream_has_every_detail(server, expected):
    text = f"{KING}\n\n{WOMEN}"
    events = server.post("/stream", {"q": text, "source": "auto", "target": "de"}).events
    start, result = events[0], events[-1]
    assert {name for name, _ in events[1:-1]} <= {"partial"}
    assert start[0] == "start" and result[0] == "result"
    assert start[1] == {
        **{"model": "en-de", "source": "en", "target": "de"},
        "detectedLanguage": server.translate(text, source="auto").json["detectedLanguage"],
    }
    king, women = expected(KING), expected(WOMEN)
    assert result[1]["translatedText"] == f"{king.text}\n\n{women.text}"
    assert [line["source"] for line in result[1]["lines"]] == [KING, "", WOMEN]
    assert result[1]["lines"][1]["hypotheses"][0]["text"] == ""
    for line, wanted in zip(result[1]["lines"][::2], (king, women), strict=True):
        assert (line["tokens"], line["unknown"]) == (wanted.source_tokens, wanted.unknown)
        for found, hypothesis in zip(line["hypotheses"], wanted.hypotheses, strict=True):
            assert (found["text"], found["tokens"]) == (hypothesis.text, hypothesis.tokens)
            assert found["score"] == pytest.approx(hypothesis.score, abs=1e-4)
            links = [(tuple(link["source"]), tuple(link["target"])) for link in found["alignments"]]
            assert links == [(link.source, link.target) for link in hypothesis.alignments]


@pytest.mark.parametrize("body, status", [({}, 400), ({"q": [KING], "source": "en", "target": "de"}, 400)])
def test_an_invalid_stream_has_a_status(server, body, status):
    answer = server.post("/stream", body)
    assert answer.status == status and "error" in answer.json


def test_an_unexpected_error_is_explained_only_in_the_log(exported_models, caplog):
    def fail(*args):
        raise RuntimeError("a secret")

    with served(exported_models / "float32") as server:
        server.models.models[0].translator.network.step = fail
        name, data = server.post("/stream", {"q": KING, "source": "en", "target": "de"}).events[-1]
        answer = server.translate(KING)
    assert (name, data["status"], answer.status) == ("error", 500, 500)
    assert data["error"] == answer.json["error"] == "an unexpected error occurred: see the log of the server"
    assert caplog.text.count("a secret") >= 2


# Other addresses


def test_a_language_is_detected_among_the_loaded_ones(server):
    ((detected),) = server.post("/detect", {"q": KING}).json
    assert detected["language"] == "en" and detected["confidence"] > 50
    ((detected),) = server.post("/detect", urllib.parse.urlencode({"q": "Привет, как дела?"}), headers=FORM).json
    assert detected == {"language": "en", "confidence": 0.0}


def test_languages_models_and_settings(server):
    assert server.get("/languages").json == [
        {"code": "en", "name": "English", "targets": ["de"]},
        {"code": "de", "name": "German", "targets": []},
    ]
    (model,) = server.get("/models").json
    assert model["name"] == "en-de" and model["N"] == {"encoder": 40, "decoder": 40} and model["dtype"] == "float32"
    settings = server.get("/frontend/settings").json
    assert settings["charLimit"] == 5000 and settings["keyRequired"] is False
    assert settings["language"]["target"] == {"code": "de", "name": "German"}
    assert server.get("/health").json == {"status": "ok"}


def test_the_maps_of_a_model_are_its_matrices(server):
    layers = server.get("/models/en-de/maps").json
    assert [(layer["stack"], layer["layer"]) for layer in layers] == [
        *[("encoder", 1), ("encoder", 2), ("decoder", 1), ("decoder", 2)]
    ]
    network = server.models.models[0].translator.network
    for layer in layers:
        found = server.get(f"/models/en-de/maps/{layer['stack']}/{layer['layer']}").json
        L, number = layer["positions"], layer["layer"] - 1
        A = network.A[number, 0] if layer["stack"] == "encoder" else network.past_A[:, number, 0]
        flat = [value for row in found["A"][0] for value in row]
        assert flat == pytest.approx(A[:L, :L].flatten().tolist(), rel=1e-3)


@pytest.mark.parametrize(
    "path",
    [
        *("/nothing", "/models/nothing/maps", "/models/en-de/maps/encoder/3", "/models/en-de/maps/encoder/x"),
        *("/static/nothing", "/static/", "/static/../app.py", "/static/%2e%2e/app.py", "//etc/passwd"),
    ],
)
def test_other_addresses_are_not_found(server, path):
    answer = server.get(path)
    assert answer.status == 404 and list(answer.json) == ["error"]


def test_another_method_is_refused_and_the_allowed_one_is_named(server):
    answer = server.get("/translate")
    assert answer.status == 405 and answer.headers["allow"] == "POST" and "error" in answer.json


def test_metrics_count_requests_characters_and_batches(server):
    lines = (
        'http_requests_total{path="/translate",status="200"}',
        'http_request_seconds_count{path="/translate"}',
        'translated_characters_total{model="en-de"}',
        'batch_sentences_sum{model="en-de"}',
    )
    before = [server.metric(line) for line in lines]
    server.translate([KING, WOMEN])
    assert [server.metric(line) - old for line, old in zip(lines, before)] == [1, 1, len(KING + WOMEN), 2]
    assert server.metric('waiting_requests{model="en-de"}') == 0


def test_every_answer_has_the_security_headers(server):
    answers = [
        *(server.get(path) for path in ("/", "/docs", "/static/page.js", "/models", "/nothing", "/openapi.json")),
        *(server.translate(KING), server.translate(), server.post("/translate", "{")),
        server.get("/", headers={"Host": "evil.example"}),
    ]
    for answer in answers:
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "server" not in answer.headers


def test_the_pages_load_nothing_from_other_hosts(server):
    for path in ("/", "/docs"):
        page = server.get(path)
        assert page.status == 200 and "//" not in page.text.replace("<!DOCTYPE html>", "")


# Several models


def test_models_are_chosen_by_name_and_each_reports_its_batches(exported_models):
    small, big = exported_models / "float32", exported_models / "int8"
    with served(("small", small), ("big", big)) as server:
        assert [model["dtype"] for model in server.get("/models").json] == ["float32", "int8"]
        for name, dtype in (("small", "float32"), ("big", "int8")):
            line = f'batch_sentences_count{{model="{name}"}}'
            before = server.metric(line)
            events = server.post("/stream", {"q": KING, "source": "en", "target": "de", "model": name}).events
            assert events[0][1]["model"] == name and server.metric(line) == before + 1, dtype
        line = 'translated_characters_total{model="small"}'
        before = server.metric(line)
        server.translate(KING)
        assert server.metric(line) == before + len(KING)  # the first model is the default


def test_each_text_of_a_list_is_translated_by_the_model_of_its_language(exported_models, tmp_path):
    french = shutil.copytree(exported_models / "int8", tmp_path / "french")
    config = json.loads((french / "config.json").read_text())
    (french / "config.json").write_text(json.dumps({**config, "languages": ["fr", "de"]}))
    roi = "Le vieux roi voit un petit chien."
    with served(exported_models / "float32", french) as server:
        answer = server.translate([roi, KING, roi], source="auto").json
        assert [language["language"] for language in answer["detectedLanguage"]] == ["fr", "en", "fr"]
        expected = [server.translate(text, source).json for text, source in ((roi, "fr"), (KING, "en"), (roi, "fr"))]
        assert answer["translatedText"] == [one["translatedText"] for one in expected]
        assert server.metric('translated_characters_total{model="fr-de"}') == 4 * len(roi)
        assert server.get("/languages").json == [
            {"code": "en", "name": "English", "targets": ["de"]},
            {"code": "fr", "name": "French", "targets": ["de"]},
            {"code": "de", "name": "German", "targets": []},
        ]
        events = server.post("/stream", {"q": roi, "source": "auto", "target": "de"}).events
        assert events[0][1]["model"] == "fr-de"
        only_english = server.translate(roi, source="auto", model="en-de").json["detectedLanguage"]
        assert only_english["language"] == "en"


# Limits


@pytest.mark.parametrize(
    "q, message",
    [
        ("a" * 101, "the request has 101 characters, but the limit is 100: send fewer"),
        (["a" * 60, "b" * 41], "the request has 101 characters, but the limit is 100: send fewer"),
        ("a\n" * 4, "the request has 5 lines, but the limit is 4: send fewer"),
        (["a\r\nb", "c\rd", ""], "the request has 5 lines, but the limit is 4: send fewer"),
        ("a" * 30_000, "the request is larger than 17,584 bytes: send less text"),
    ],
)
def test_too_much_text_is_refused(exported_models, q, message):
    with served(exported_models / "float32", max_characters=100, max_lines=4) as server:
        answer = server.translate(q)
        assert (answer.status, answer.json) == (413, {"error": message})
        assert server.translate("a" * 100).status == server.translate("\n\n\n").status == 200


def test_a_client_above_the_rate_is_told_when_to_try_again(exported_models):
    with served(exported_models / "float32", rate=2) as server:
        answers = [server.translate("a") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        seconds = int(answers[2].headers["retry-after"])
        assert 1 <= seconds <= 30
        assert answers[2].json["error"] == f"the limit is 2 requests per minute: try again in {seconds} seconds"
        assert server.get("/languages").status == 200  # other addresses are not limited


def test_characters_per_minute_are_limited(exported_models):
    with served(exported_models / "float32", max_characters=100, character_rate=100) as server:
        assert [server.translate("a" * 60).status, server.translate("a" * 60).status] == [200, 429]
        answer = server.post("/detect", {"q": "a" * 100})
        assert answer.status == 429 and 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.json["error"].startswith("the limit is 100 characters per minute: try again in ")


def test_an_api_key_can_be_required(exported_models):
    with served(exported_models / "float32", api_keys=["kéy", "another"]) as server:
        statuses = [server.translate("a", api_key=key).status for key in ("kéy", "another", "", "k", None)]
        assert statuses == [200, 200, 403, 403, 403]
        for path in ("/translate", "/stream", "/detect"):
            answer = server.post(path, {"q": "a", "source": "en", "target": "de"})
            assert answer.json == {"error": "the API key is missing or unknown: send a valid api_key"}
        assert server.get("/frontend/settings").json["keyRequired"] is True


def test_requests_beyond_the_queue_are_refused_until_there_is_a_place(exported_models):
    steps = threading.Semaphore(0)
    with served(exported_models / "float32", steps=steps, max_waiting=2) as server, ThreadPoolExecutor(2) as pool:
        running = [pool.submit(server.translate, text) for text in (KING, WOMEN)]
        queue = server.models.models[0].queue
        poll(lambda: len(queue) == 2)
        assert server.metric('waiting_requests{model="en-de"}') == 2
        for path in ("/translate", "/stream"):
            refused = server.post(path, {"q": KING, "source": "en", "target": "de"})
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert refused.json == {"error": "too many requests wait: try again later"}
        steps.release(100_000)
        assert [answer.result().status for answer in running] == [200, 200]
        assert server.translate(KING).status == 200


def test_requests_that_wait_together_share_a_batch(exported_models, expected):
    steps, texts = threading.Semaphore(0), [KING, WOMEN, f"{KING} {WOMEN}", WOMEN]
    with served(exported_models / "float32", steps=steps, beam=BEAM) as server, ThreadPoolExecutor(5) as pool:
        first = pool.submit(server.translate, "A dog.")
        line, queue = 'batch_sentences_count{model="en-de"}', server.models.models[0].queue
        poll(lambda: len(queue) == 1)
        others = [pool.submit(server.translate, text, alternatives=i % 2) for i, text in enumerate(texts)]
        poll(lambda: len(queue) == 5)
        before = server.metric(line)
        steps.release(100_000)
        assert [other.result().json["translatedText"] for other in others] == [expected(text).text for text in texts]
        assert first.result().status == 200 and server.metric(line) <= before + 2


@pytest.mark.parametrize("path", ["/translate", "/stream"])
def test_a_client_that_leaves_frees_its_place(exported_models, path):
    steps = threading.Semaphore(0)
    with served(exported_models / "float32", steps=steps) as server:
        connection = server.connect()
        connection.request("POST", path, f'{{"q": "{KING}", "source": "en", "target": "de"}}')
        queue = server.models.models[0].queue
        poll(lambda: len(queue) == 1)
        connection.close()
        poll(lambda: len(queue) == 0)
        steps.release(100_000)
        assert server.translate(KING).status == 200


# Origins


def test_a_page_of_another_origin_needs_permission(exported_models):
    with served(exported_models / "float32", allowed_origins=["https://example.org"], max_characters=99) as server:
        own, other = f"http://127.0.0.1:{server.port}", "https://evil.example"
        assert server.translate(headers={"Origin": own}).status == 200
        for origin in (other, "null", "http://127.0.0.1:1", "https://example.org.evil.example"):
            answer = server.translate(headers={"Origin": origin})
            assert answer.status == 403 and "access-control-allow-origin" not in answer.headers
        allowed = server.translate(headers={"Origin": "https://example.org"})
        assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, "https://example.org")
        refused = server.translate("a" * 100_000, headers={"Origin": "https://example.org"})  # before it is read
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (413, "https://example.org")
        preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        answers = [
            server.request("OPTIONS", "/translate", headers={"Origin": origin, **preflight})
            for origin in ("https://example.org", other)
        ]
        assert [answer.status for answer in answers] == [200, 403]


def test_by_default_no_other_origin_is_allowed(server):
    answer = server.translate(headers={"Origin": "https://example.org"})
    assert answer.status == 403
    assert (
        answer.json["error"] == "pages of 'https://example.org' may not use this server: start it with --allow-origin"
    )


def test_a_connection_is_kept_unless_a_body_was_not_read(server):
    connection = server.connect()
    for path, body in (("/translate", "{}"), ("/models", None), ("/translate", f'{{"q": "{KING}"}}')):
        connection.request("POST" if body else "GET", path, body)
        response = connection.getresponse()
        assert response.headers["connection"] is None and response.read()
    connection.request("POST", "/nothing", "not read")
    assert connection.getresponse().headers["connection"] == "close"
    connection.close()
