// Node.js with the `ws` package: a loop over the room. Argument: the port.
const { WebSocketServer } = require('ws');

const rooms = new Map();
const server = new WebSocketServer({ port: +process.argv[2], host: '127.0.0.1', perMessageDeflate: false });

server.on('connection', (ws) => {
  let join, room;
  ws.on('message', (frame) => {
    const event = JSON.parse(frame);
    if (!join) {
      join = event;
      if (!rooms.has(join.topic)) rooms.set(join.topic, new Set());
      room = rooms.get(join.topic).add(ws);
      ws.send('{"type":"joined"}');
      return;
    }
    const timestamp = Math.floor(Date.now() / 1000);
    const message = JSON.stringify({ username: join.username, message: event.message, timestamp });
    for (const other of room) if (other !== ws) other.send(message);
    ws.send('{"type":"ack"}');
  });
  ws.on('close', () => room && room.delete(ws));
});
