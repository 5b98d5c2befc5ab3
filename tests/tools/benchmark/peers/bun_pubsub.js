// Bun's native publish/subscribe (uWebSockets, C++). Argument: the port.
Bun.serve({
  port: +process.argv[2],
  hostname: '127.0.0.1',
  fetch(request, server) {
    return server.upgrade(request, { data: {} }) ? undefined : new Response('chat');
  },
  websocket: {
    perMessageDeflate: false,
    message(ws, frame) {
      const event = JSON.parse(frame), member = ws.data;
      if (!member.topic) {
        Object.assign(member, event);
        ws.subscribe(member.topic);
        ws.send('{"type":"joined"}');
        return;
      }
      const timestamp = Math.floor(Date.now() / 1000);
      ws.publish(member.topic, JSON.stringify({ username: member.username, message: event.message, timestamp }));
      ws.send('{"type":"ack"}');
    },
  },
});
