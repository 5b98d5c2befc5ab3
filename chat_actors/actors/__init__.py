"""Actors: the supervisor and the topics, the events that they receive, and the outbox that they write to."""
