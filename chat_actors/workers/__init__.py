"""Several processes of one server on one machine: each topic lives in one of them; its members' sockets go there."""
