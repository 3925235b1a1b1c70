"""The server as a Python service sees it, with code generated from `proto/`: every method, streams, error details,
deadlines, and what is left after kill -9.

usage: python_client.py BINARY    (needs requirements.txt)
"""

import datetime
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import grpc
from google.protobuf import timestamp_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import server

BINARY = sys.argv[1] if len(sys.argv) > 1 else sys.exit(__doc__)
# The longest that a call may take on a busy machine.
PATIENCE = 30


def string(text):
    return value.Value(string_value=text)


def number(of):
    return value.Value(number_value=of)


def strings(*items):
    return value.StringList(values=items)


def at(*moment):
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(datetime.datetime(*moment))
    return stamp


class Answers(unittest.TestCase):
    """One server for all: every test has a site of its own."""

    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        cls.server = server.Server(BINARY, Path(cls.dir.name) / "data")
        cls.channel = grpc.insecure_channel(cls.server.data)
        cls.stub = service_grpc.AttributeServiceStub(cls.channel)

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        with cls.server:
            status = cls.server.stop()
        cls.dir.cleanup()
        assert status == 0, f"the server ended with {status}"

    def setUp(self):
        self.site = self.id().rsplit(".", 1)[1]

    def identify(self, user, **fields):
        return self.stub.Identify(self.request(user, **fields), timeout=PATIENCE).receipt

    def request(self, user, **fields):
        return write.IdentifyRequest(site=self.site, user=user, **fields)

    def profile(self, user, **fields):
        request = service.GetProfileRequest(site=self.site, user=user, **fields)
        return self.stub.GetProfile(request, timeout=PATIENCE).profile

    def refused(self, method, request):
        """The status code, ErrorInfo and BadRequest of a call that must fail."""
        with self.assertRaises(grpc.RpcError) as raised:
            answer = getattr(self.stub, method)(request, timeout=PATIENCE)
            self.fail(f"not refused: {answer}")
        status = rpc_status.from_call(raised.exception)
        self.assertIsNotNone(status, f"no details: {raised.exception}")
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(bad)
        self.assertEqual(info.domain, "steadfast")
        return raised.exception.code(), info, [violation.field for violation in bad.field_violations]

    def test_write_and_read(self):
        attributes = {
            "plan": string("pro"),
            "seats": number(12),
            "trial": value.Value(bool_value=False),
            "signed_up": value.Value(time_value=at(2020, 4, 10)),
            "tags": value.Value(list_value=strings("a", "b")),
        }
        receipt = self.identify("ann", attributes=attributes, occurred_at=at(2021, 1, 1))
        self.assertEqual((receipt.outcome, receipt.version), (write.OUTCOME_APPLIED, 1))
        profile = self.profile("ann", include_occurred_at=True)
        self.assertEqual(dict(profile.attributes), attributes)
        self.assertEqual(dict(profile.occurred_at), {name: at(2021, 1, 1) for name in attributes})
        self.assertFalse(profile.HasField("pending"))
        known = self.stub.ListAttributes(service.ListAttributesRequest(site=self.site), timeout=PATIENCE)
        self.assertEqual([a.name for a in known.attributes], sorted(attributes))
        asked = service.GetWriteRequest(site=self.site, position=receipt.position)
        self.assertEqual(self.stub.GetWrite(asked, timeout=PATIENCE).state, write.WRITE_STATE_APPLIED)

    def test_every_change(self):
        change = write.AttributeChange
        self.identify("bo", attributes={"old": string("x"), "tags": value.Value(list_value=strings("a"))})
        changes = [
            change(name="plan", set=string("pro")),
            change(name="source", set_once=string("ad")),
            change(name="old", unset={}),
            change(name="visits", add=2),
            change(name="log", append=strings("x", "x")),
            change(name="tags", union=strings("a", "b")),
        ]
        self.assertEqual(self.identify("bo", changes=changes).version, 2)
        changes = [change(name="source", set_once=string("mail")), change(name="log", remove=strings("x"))]
        self.assertEqual(self.identify("bo", changes=changes).version, 3)
        expected = {
            "plan": string("pro"),
            "source": string("ad"),
            "visits": number(2),
            "log": value.Value(list_value=strings()),
            "tags": value.Value(list_value=strings("a", "b")),
        }
        self.assertEqual(dict(self.profile("bo").attributes), expected)

    def test_retries_change_nothing(self):
        change = [write.AttributeChange(name="visits", add=1)]
        first = self.identify("cy", changes=change, request_id="once")
        again = self.identify("cy", changes=change, request_id="once")
        self.assertEqual((again.outcome, again.version), (write.OUTCOME_DUPLICATE, first.version))
        self.assertEqual(self.profile("cy").attributes["visits"], number(1))
        other = self.request("cy", attributes={"visits": number(5)}, request_id="once")
        code, info, _ = self.refused("Identify", other)
        self.assertEqual((code, info.reason), (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED"))

    def test_many(self):
        requests = [self.request(f"user-{n}", attributes={"n": number(n)}) for n in range(1000)]
        answer = self.stub.IdentifyMany(service.IdentifyManyRequest(requests=requests), timeout=PATIENCE)
        self.assertEqual((len(answer.results), answer.failed), (1000, 0))
        users = [f"user-{n}" for n in range(99)] + ["nobody"]
        batch = service.BatchGetProfilesRequest(site=self.site, users=users)
        found = self.stub.BatchGetProfiles(batch, timeout=PATIENCE)
        self.assertEqual([p.attributes["n"].number_value for p in found.profiles], list(range(99)))
        self.assertEqual((list(found.missing), list(found.unprocessed)), (["nobody"], []))

    def test_stream(self):
        def requests():
            for n in range(3000):
                change = [write.AttributeChange(name="visits", add=1)]
                yield service.IdentifyStreamRequest(sequence=n, request=self.request(f"u{n % 7}", changes=change))
            yield service.IdentifyStreamRequest(sequence=3000, request=self.request("undefined"))

        answers = {a.sequence: a.result for a in self.stub.IdentifyStream(requests(), timeout=2 * PATIENCE)}
        self.assertEqual(sorted(answers), list(range(3001)))
        error = answers.pop(3000).error
        self.assertEqual((error.reason, error.metadata["kept"]), ("INVALID_FIELD", "no"))
        self.assertTrue(all(result.HasField("receipt") for result in answers.values()))
        total = sum(self.profile(f"u{n}").attributes["visits"].number_value for n in range(7))
        self.assertEqual(total, 3000)

    def test_delete(self):
        self.identify("di", attributes={"plan": string("pro")})
        erase = service.DeleteProfileRequest(site=self.site, user="di")
        self.assertEqual(self.stub.DeleteProfile(erase, timeout=PATIENCE).receipt.outcome, write.OUTCOME_APPLIED)
        code, info, _ = self.refused("GetProfile", service.GetProfileRequest(site=self.site, user="di"))
        self.assertEqual((code, info.reason), (grpc.StatusCode.NOT_FOUND, "PROFILE_NOT_FOUND"))
        # What happened before the erasure stays out; what happens after it makes a new profile.
        self.identify("di", attributes={"plan": string("old")}, occurred_at=at(2021, 1, 1))
        self.refused("GetProfile", service.GetProfileRequest(site=self.site, user="di"))
        self.identify("di", attributes={"plan": string("new")})
        self.assertEqual(dict(self.profile("di").attributes), {"plan": string("new")})

    def test_import_and_export(self):
        def batches():
            for batch in range(5):
                records = [
                    imports.ImportRecord(
                        number=n,
                        user=f"user-{n:03}",
                        attributes={"n": number(n), "name": string(f"näme {n}")},
                        attribute_occurred_at={"n": at(2022, 2, 2)},
                        occurred_at=at(2023, 3, 3),
                    )
                    for n in range(batch * 100, batch * 100 + 100)
                ]
                site = self.site if batch == 0 else ""
                yield imports.ImportProfilesRequest(site=site, resume_token=str(batch), records=records)

        answers = list(self.stub.ImportProfiles(batches(), timeout=PATIENCE))
        self.assertEqual([(a.resume_token, a.kept) for a in answers], [(str(n), 100) for n in range(5)])
        # Imported records are answered when they are durable; a later write of the same user is applied after them.
        later = [self.request(f"user-{n:03}", attributes={"later": value.Value(bool_value=True)}) for n in range(500)]
        receipts = self.stub.IdentifyMany(service.IdentifyManyRequest(requests=later), timeout=PATIENCE).results
        self.assertEqual({result.receipt.outcome for result in receipts}, {write.OUTCOME_APPLIED})
        request = imports.ExportProfilesRequest(site=self.site)
        pages = list(self.stub.ExportProfiles(request, timeout=PATIENCE))
        profiles = [profile for page in pages for profile in page.profiles]
        self.assertEqual([p.user for p in profiles], [f"user-{n:03}" for n in range(500)])
        attributes = {"n": number(7), "name": string("näme 7"), "later": value.Value(bool_value=True)}
        self.assertEqual(dict(profiles[7].attributes), attributes)
        times = dict(profiles[7].occurred_at)
        self.assertEqual((times["n"], times["name"]), (at(2022, 2, 2), at(2023, 3, 3)))

    def test_errors_say_what_is_wrong(self):
        self.identify("ed", attributes={"plan": string("pro")})
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        far = timestamp_pb2.Timestamp(seconds=4_000_000_000)
        cases = [
            ({"attributes": {"plan": number(1)}}, "TYPE_MISMATCH", 'attributes["plan"]'),
            ({"attributes": {"plan": value.Value()}}, "INVALID_FIELD", 'attributes["plan"]'),
            ({"attributes": {"n": number(float("nan"))}}, "INVALID_FIELD", 'attributes["n"].number_value'),
            ({"attributes": {"plan": string("x" * 201)}}, "LIMIT_EXCEEDED", 'attributes["plan"].string_value'),
            ({"attributes": {"x" * 51: string("y")}}, "LIMIT_EXCEEDED", "attributes"),
            ({"attributes": {"a": string("y")}, "occurred_at": at(1970, 1, 1)}, "INVALID_FIELD", "occurred_at"),
            ({"attributes": {"a": string("y")}, "occurred_at": far}, "INVALID_FIELD", "occurred_at"),
            ({"changes": [write.AttributeChange(name="a")]}, "INVALID_FIELD", "changes[0]"),
            ({"attributes": {"a": string("y")}, "wait": 77}, "INVALID_FIELD", "wait"),
        ]
        for fields, reason, field in cases:
            with self.subTest(**fields):
                code, info, violations = self.refused("Identify", self.request("ed", **fields))
                self.assertEqual((code, info.reason, info.metadata["kept"]), (invalid, reason, "no"))
                self.assertEqual(violations, [field])
        code, info, violations = self.refused("Identify", self.request("null", attributes={"a": string("y")}))
        self.assertEqual((code, violations), (invalid, ["user"]))
        versioned = self.request("ed", attributes={"plan": string("x")}, if_version=0)
        code, info, _ = self.refused("Identify", versioned)
        self.assertEqual((code, info.reason), (grpc.StatusCode.ABORTED, "VERSION_MISMATCH"))
        self.assertEqual(dict(info.metadata), {"kept": "no", "current_version": "1"})
        code, info, _ = self.refused("QueryProfiles", service.QueryProfilesRequest(site=self.site))
        self.assertEqual(code, grpc.StatusCode.UNIMPLEMENTED)
        huge = self.request("ed", changes=[write.AttributeChange(name="l", append=strings("x" * 5_000_000))])
        code, info, _ = self.refused("Identify", huge)
        self.assertEqual((code, info.reason), (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE"))
        self.assertEqual(dict(self.profile("ed").attributes), {"plan": string("pro")})

    def test_deadlines_end_streams(self):
        done = threading.Event()

        def requests():
            yield service.IdentifyStreamRequest(sequence=1, request=self.request("flo", attributes={"n": number(1)}))
            done.wait(PATIENCE)

        answers = self.stub.IdentifyStream(requests(), timeout=1)
        began = time.monotonic()
        try:
            self.assertEqual(next(answers).sequence, 1)
            with self.assertRaises(grpc.RpcError) as raised:
                next(answers)
        finally:
            done.set()
        self.assertEqual(raised.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertLess(time.monotonic() - began, PATIENCE)
        self.assertEqual(self.profile("flo").attributes["n"], number(1))


class Client(threading.Thread):
    """Adds 1 to its own counter, over and over, until the server is gone."""

    def __init__(self, stub, name, count, enough):
        super().__init__()
        self.stub, self.user, self.kept, self.enough = stub, name, count, enough
        self.error = None

    def request(self):
        wait = write.WAIT_JOURNALED if self.kept % 3 == 0 else write.WAIT_APPLIED
        change = [write.AttributeChange(name="count", add=1)]
        request_id = f"{self.user}-{self.kept}"
        return write.IdentifyRequest(site="crash", user=self.user, changes=change, request_id=request_id, wait=wait)

    def run(self):
        while self.error is None:
            try:
                self.stub.Identify(self.request(), timeout=PATIENCE)
                self.kept += 1
                self.enough.release()
            except grpc.RpcError as error:
                self.error = error


class Crashes(unittest.TestCase):
    """What was acknowledged is there after kill -9, exactly once."""

    def test_kill_and_restart(self):
        with tempfile.TemporaryDirectory() as dir:
            data = Path(dir) / "data"
            counts = {f"client-{n}": 0 for n in range(8)}
            for _ in range(3):
                with server.Server(BINARY, data) as running, grpc.insecure_channel(running.data) as channel:
                    stub = service_grpc.AttributeServiceStub(channel)
                    enough = threading.Semaphore(0)
                    clients = [Client(stub, user, count, enough) for user, count in counts.items()]
                    for client in clients:
                        client.start()
                    for _ in range(500):
                        self.assertTrue(enough.acquire(timeout=PATIENCE), "the clients get no further")
                    running.kill()
                    for client in clients:
                        client.join()
                        self.assertEqual(client.error.code(), grpc.StatusCode.UNAVAILABLE)
                with server.Server(BINARY, data) as running, grpc.insecure_channel(running.data) as channel:
                    stub = service_grpc.AttributeServiceStub(channel)
                    for client in clients:
                        asked = service.GetProfileRequest(site="crash", user=client.user)
                        # The one in flight may have been kept; to ask again with its id settles it.
                        last = client.request()
                        last.wait = write.WAIT_APPLIED
                        outcome = stub.Identify(last, timeout=PATIENCE).receipt.outcome
                        self.assertIn(outcome, (write.OUTCOME_APPLIED, write.OUTCOME_DUPLICATE))
                        count = stub.GetProfile(asked, timeout=PATIENCE).profile.attributes["count"].number_value
                        self.assertEqual(count, client.kept + 1)
                        counts[client.user] = client.kept + 1
                    self.assertEqual(running.stop(), 0)
            print(f"{sum(counts.values())} acknowledged writes, 3 kills: each is there once", file=sys.stderr)


with tempfile.TemporaryDirectory() as generated:
    server.generate(Path(generated) / "generated")
    service = server.module("attribute_service_pb2")
    service_grpc = server.module("attribute_service_pb2_grpc")
    imports, value, write = map(server.module, ["import_pb2", "value_pb2", "write_pb2"])
    unittest.main(argv=sys.argv[:1], verbosity=2)
