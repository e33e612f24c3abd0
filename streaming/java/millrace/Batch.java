package millrace;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** The records of one call of Python, and the distinct keys among them. Grows until it is full, then starts over. */
final class Batch {
  private final byte[][] records;
  private final byte[] ports;
  private final int[] slots;
  private final int maxBytes;
  private final Map<String, Integer> index = new HashMap<>();
  private final List<String> keys = new ArrayList<>();
  private int size;
  private int bytes;

  Batch(int maxRecords, int maxBytes) {
    this.records = new byte[maxRecords][];
    this.ports = new byte[maxRecords];
    this.slots = new int[maxRecords];
    this.maxBytes = maxBytes;
  }

  int size() {
    return size;
  }

  boolean full() {
    return size == records.length || bytes >= maxBytes;
  }

  /** Distinct keys in the order in which they came. */
  List<String> keys() {
    return keys;
  }

  void add(int port, String key, byte[] record) {
    Integer slot = index.putIfAbsent(key, keys.size());
    if (slot == null) {
      slot = keys.size();
      keys.add(key);
    }
    records[size] = record;
    ports[size] = (byte) port;
    slots[size++] = slot;
    bytes += record.length;
  }

  /** The request for this batch; `states` in the order of the keys, null where a key has none. */
  byte[] request(byte[][] states) {
    int u = keys.size();
    byte[][] names = new byte[u][];
    int head = 8 + 9 * size + 8 * u;
    int total = Frames.pad(head) + bytes;
    for (int i = 0; i < u; i++) {
      names[i] = keys.get(i).getBytes(StandardCharsets.UTF_8);
      total += names[i].length + (states[i] == null ? 0 : states[i].length);
    }
    byte[] request = new byte[total];
    int p = Frames.putInt(request, Frames.putInt(request, 0, size), u);
    for (int i = 0; i < size; i++) {
      p = Frames.putInt(request, p, slots[i]);
    }
    for (int i = 0; i < size; i++) {
      p = Frames.putInt(request, p, records[i].length);
    }
    for (byte[] name : names) {
      p = Frames.putInt(request, p, name.length);
    }
    for (byte[] state : states) {
      p = Frames.putInt(request, p, state == null ? 0 : state.length);
    }
    System.arraycopy(ports, 0, request, p, size);
    p = Frames.pad(head);
    for (byte[] state : states) {
      p = state == null ? p : Frames.put(request, p, state);
    }
    for (byte[] name : names) {
      p = Frames.put(request, p, name);
    }
    for (int i = 0; i < size; i++) {
      p = Frames.put(request, p, records[i]);
    }
    return request;
  }

  void clear() {
    for (int i = 0; i < size; i++) {
      records[i] = null;
    }
    index.clear();
    keys.clear();
    size = 0;
    bytes = 0;
  }
}
