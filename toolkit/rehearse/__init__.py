"""Rehearse: job code, unmodified, against concurrent sessions in a sealed, throw-away database.

    words.py       Scenario, Actor, Step, Story, Outcome: frozen
    connection.py  psycopg connections whose every statement, BEGIN and COMMIT too, waits for its turn
    stage.py       the turnstile: gives turns, sees who waits inside the server
    room.py        the sealed database, made from a template; plays one schedule
    explorer.py    all schedules depth first, or a sample; reduction; shrinking
    story_view.py  a schedule for people        isolation_spec.py  … for PostgreSQL's isolation tester
    mutants.py     sabotage that a proof must notice        certificate.py  the proof, on paper
    incident.py    an incident's timeline, run with a virtual clock
    case.py        a captured job, run again                diff.py      … with two bodies, side by side
    quiet.py       a log and a sink that tell nobody

A package brings its scenarios by entry point, group `freshfetch.rehearsals`: an object `Rehearsal` (words.py).
"""
