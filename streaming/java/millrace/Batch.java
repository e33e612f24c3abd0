package millrace;

import java.nio.charset.StandardCharsets;
import java.util.List;

/** The records of one call of Python, by the rows of their keys. Grows until it is full, then starts over. */
final class Batch {
  private final byte[][] records;
  private final byte[] ports;
  private final String[] keys;
  private final int[] rows;
  private final int maxBytes;
  private int size;
  private int bytes;

  Batch(int maxRecords, int maxBytes) {
    this.records = new byte[maxRecords][];
    this.ports = new byte[maxRecords];
    this.keys = new String[maxRecords];
    this.rows = new int[maxRecords];
    this.maxBytes = maxBytes;
  }

  int capacity() {
    return records.length;
  }

  int size() {
    return size;
  }

  boolean full() {
    return size == records.length || bytes >= maxBytes;
  }

  void add(int port, String key, byte[] record) {
    records[size] = record;
    ports[size] = (byte) port;
    keys[size++] = key;
    bytes += record.length;
  }

  /** Look up the rows of all keys. */
  void resolve(Rows table) {
    table.fetch(keys, size);
    for (int i = 0; i < size; i++) {
      rows[i] = table.of(keys[i]);
    }
  }

  /** A key that Python has no state of yet: its row there, its state (null: none), and what came behind it. */
  record Admitted(int row, String key, byte[] state, byte[] log) {}

  /** The request for this batch: who is `admitted` before it, and whose states Python hands over after it. */
  byte[] request(List<Admitted> admitted, int[] handed) {
    int u = admitted.size();
    byte[][] names = new byte[u][];
    int head = 16 + 9 * size + 16 * u + 4 * handed.length;
    int total = Frames.pad(head) + bytes;
    for (int i = 0; i < u; i++) {
      names[i] = admitted.get(i).key().getBytes(StandardCharsets.UTF_8);
      total += names[i].length + length(admitted.get(i).state()) + length(admitted.get(i).log());
    }
    byte[] request = new byte[total];
    int p = Frames.putInt(request, Frames.putInt(request, 0, size), u);
    p = Frames.putInt(request, Frames.putInt(request, p, handed.length), 0);
    for (int i = 0; i < size; i++) {
      p = Frames.putInt(request, p, rows[i]);
    }
    for (int i = 0; i < size; i++) {
      p = Frames.putInt(request, p, records[i].length);
    }
    for (Admitted one : admitted) {
      p = Frames.putInt(request, p, one.row());
    }
    for (byte[] name : names) {
      p = Frames.putInt(request, p, name.length);
    }
    for (Admitted one : admitted) {
      p = Frames.putInt(request, p, length(one.state()));
    }
    for (Admitted one : admitted) {
      p = Frames.putInt(request, p, length(one.log()));
    }
    for (int row : handed) {
      p = Frames.putInt(request, p, row);
    }
    System.arraycopy(ports, 0, request, p, size);
    p = Frames.pad(head);
    for (Admitted one : admitted) {
      p = one.state() == null ? p : Frames.put(request, p, one.state());
    }
    for (Admitted one : admitted) {
      p = one.log() == null ? p : Frames.put(request, p, one.log());
    }
    for (byte[] name : names) {
      p = Frames.put(request, p, name);
    }
    for (int i = 0; i < size; i++) {
      p = Frames.put(request, p, records[i]);
    }
    return request;
  }

  private static int length(byte[] state) {
    return state == null ? 0 : state.length;
  }

  void clear() {
    for (int i = 0; i < size; i++) {
      records[i] = null;
    }
    size = 0;
    bytes = 0;
  }
}
