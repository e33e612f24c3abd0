package millrace;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.PriorityQueue;
import java.util.Queue;
import java.util.Set;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.runtime.state.KeyedStateBackend;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;

/**
 * Records that wait for others, in one queue: main records until what must be known before them has been read, side
 * records until a main record is later than they. At a checkpoint the queue is written to keyed state, so that it
 * goes where its keys go when a job is scaled.
 */
final class Hold {
  private static final Comparator<Held> BY_TIME =
      Comparator.comparingLong(Held::at).thenComparingLong(Held::place);

  private final KeyedStateBackend<String> backend;
  private final ListStateDescriptor<byte[]> descriptor;
  private final ListState<byte[]> state;
  private final Times times;
  private final boolean sorted;
  private final Queue<Held> queue;
  private long newest = Frames.NONE;
  private long place;

  /** Keys with records in keyed state, from the last checkpoint. */
  private final Set<String> written = new LinkedHashSet<>();

  private record Held(String key, byte[] frame, long at, long place) {}

  /**
   * Records wait in the order of their event times where they are `sorted`, else in that of their arrival: where their
   * times go back, those count that came before.
   */
  Hold(KeyedStateBackend<String> backend, String name, boolean sorted, Times times) throws Exception {
    this.backend = backend;
    this.times = times;
    this.sorted = sorted;
    this.queue = sorted ? new PriorityQueue<>(BY_TIME) : new ArrayDeque<>();
    this.descriptor = new ListStateDescriptor<>(name, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO);
    this.state = backend.getPartitionedState(VoidNamespace.INSTANCE, VoidNamespaceSerializer.INSTANCE, descriptor);
    read();
  }

  boolean isEmpty() {
    return queue.isEmpty();
  }

  int size() {
    return queue.size();
  }

  void add(String key, byte[] frame) {
    add(key, frame, sorted ? Frames.NONE : newest);
  }

  private void add(String key, byte[] frame, long least) {
    long at = times.of(frame, least);
    newest = Math.max(at, newest);
    queue.add(new Held(key, frame, at, place++));
  }

  /** Event time of the first in the queue. */
  long at() {
    return queue.element().at();
  }

  /** Gives the first in the queue to `next`, as of `port`. */
  void release(int port, Taker next) throws Exception {
    Held first = queue.remove();
    next.take(port, first.key(), first.frame());
  }

  /** The event time of a frame as it counts, which is `least` or later. */
  interface Times {
    long of(byte[] frame, long least);
  }

  /** Takes a record with its port and key. */
  interface Taker {
    void take(int port, String key, byte[] frame) throws Exception;
  }

  /** Write the queue to keyed state: every record behind its time and its place in the queue. */
  void write() throws Exception {
    for (String key : written) {
      backend.setCurrentKey(key);
      state.clear();
    }
    written.clear();
    for (Held held : queue) {
      byte[] entry = new byte[16 + held.frame().length];
      int p = Frames.putLong(entry, 0, held.at());
      Frames.put(entry, Frames.putLong(entry, p, held.place()), held.frame());
      backend.setCurrentKey(held.key());
      state.add(entry);
      written.add(held.key());
    }
  }

  /** Read what was written, perhaps by several tasks: a place says nothing about those of another, a time does. */
  private void read() throws Exception {
    List<Held> entries = new ArrayList<>();
    backend.applyToAllKeys(
        VoidNamespace.INSTANCE,
        VoidNamespaceSerializer.INSTANCE,
        descriptor,
        (key, list) -> list.get().forEach(entry -> entries.add(entry(key, entry))));
    entries.sort(BY_TIME);
    for (Held held : entries) {
      add(held.key(), held.frame(), held.at());
      written.add(held.key());
    }
  }

  private static Held entry(String key, byte[] bytes) {
    byte[] frame = Arrays.copyOfRange(bytes, 16, bytes.length);
    return new Held(key, frame, Frames.getLong(bytes, 0), Frames.getLong(bytes, 8));
  }
}
