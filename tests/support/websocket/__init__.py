"""Helpers for WebSocket frames byte by byte: frames, inputs, and an inbox between stand-ins."""
