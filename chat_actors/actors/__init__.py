"""Who acts: the supervisor and the topics, the events they take, and the outbox they write to."""
