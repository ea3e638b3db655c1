"""Incidents: the list, and as they happen."""

from __future__ import annotations

import pathlib
from datetime import datetime, timezone

import pytest
from servers import House, until

from flatframe import Client, Incident, IncidentKind, IncidentMoment, NotFound


def test_a_camera_that_goes_and_comes(folder: pathlib.Path) -> None:
    began = datetime.now(timezone.utc)
    with House(folder, {"door": 5}, {"incidents.offline_s": 1}) as house, Client(house.address) as client:
        assert client.incidents() == []
        with client.watch_incidents("door") as events:
            until("a picture", lambda: client.latest("door").result)
            house.ingest.end()
            begun = next(events)
            assert isinstance(begun, Incident)
            assert (begun.kind, begun.camera_id, begun.ended) == (IncidentKind.OFFLINE, "door", None)
            assert began < begun.started < datetime.now(timezone.utc)
            assert client.incidents() == [begun]
            assert client.incidents(["other"]) == []
            assert client.cameras()[0].incidents == (begun,)
            assert client.incident_snapshot(begun).camera_id == "door"
            with pytest.raises(NotFound, match="no such picture"):
                client.incident_snapshot(begun, IncidentMoment.END)

            house.ingest.start()
            over = next(events)
            assert isinstance(over, Incident)
            assert over.incident_id == begun.incident_id
            assert over.ended is not None
            assert over.ended >= over.started
        assert until("the list has it as over", lambda: [one for one in client.incidents() if one.ended]) == [over]
