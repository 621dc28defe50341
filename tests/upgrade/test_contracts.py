"""A contract changes while workers and producers of both generations run: no message dies of it."""

from fleet import Fleet
from generations import contracts_of
from versions import NOW
from waiting import wait

OLD, NEW = contracts_of("old"), contracts_of("new")


def test_producers_may_have_newer_contracts_than_workers(fleet: Fleet) -> None:
    fleet.settings["UPGRADE_RETRY_WAIT"] = "6"
    producer = fleet.client(NOW, "new")
    shop = fleet.worker(NOW, "shop", UPGRADE_CONTRACTS="old")
    producer.send(NEW["Reminder"].model_validate({"name": "unknown actor"}))
    producer.send(NEW["Invoice"].model_validate({"name": "gained field", "note": "sent"}))
    retried = producer.send(NEW["Invoice"].model_validate({"name": "retried", "first": "fail", "note": "sent"}))
    deferred = producer.send(NEW["Refund"].model_validate({"name": "raised version", "note": "sent"}))
    fleet.books.once.update(
        ["unknown actor: no note", "gained field: no note", "retried: sent", "raised version: sent"]
    )

    def states() -> set[object]:
        records = (producer.record(NEW["Invoice"], retried), producer.record(NEW["Refund"], deferred))
        return {record and record["state"] for record in records}

    fleet.ledger.wait_for("end", "gained field: no note")
    wait(lambda: states() == {"waiting"}, "the state waiting of both jobs")
    fleet.kill(shop)  # all that wait are left to the new worker
    shop = fleet.worker(NOW, "shop", UPGRADE_CONTRACTS="new")
    fleet.finish(shop)
    record = producer.record(NEW["Refund"], deferred)
    assert record is not None
    assert record["attempt"] == 1, "a wait for a newer worker uses no attempt"


def test_workers_may_have_newer_contracts_than_producers(fleet: Fleet) -> None:
    old, new = fleet.client(NOW, "old"), fleet.client(NOW, "new")
    shop = fleet.worker(NOW, "shop", UPGRADE_CONTRACTS="new")
    old.send(OLD["Invoice"].model_validate({"name": "invoice"}))
    old.send(OLD["Refund"].model_validate({"name": "refund"}))
    new.send(NEW["Refund"].model_validate({"name": "new refund", "note": "sent"}))
    fleet.books.once.update(["invoice: default", "refund: default", "new refund: sent"])
    fleet.finish(shop)
