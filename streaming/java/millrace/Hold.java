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
  private final KeyedStateBackend<String> backend;
  private final ListStateDescriptor<byte[]> descriptor;
  private final ListState<byte[]> state;
  private final boolean alone;
  private final Queue<Held> queue;
  private long turn;

  /** Keys with records in keyed state, from the last checkpoint. */
  private final Set<String> written = new LinkedHashSet<>();

  private record Held(String key, byte[] frame, long turn) {}

  /**
   * Records wait in the order of their reach and place where they are `sorted`, else in that of their arrival; `alone`:
   * each counts by its own event time, whatever came before it in its partition.
   */
  Hold(KeyedStateBackend<String> backend, String name, boolean sorted, boolean alone) throws Exception {
    this.backend = backend;
    this.alone = alone;
    Comparator<Held> order = Comparator.comparingLong(held -> reach(held.frame()));
    order = order.thenComparingLong(held -> place(held.frame())).thenComparingLong(Held::turn);
    this.queue = sorted ? new PriorityQueue<>(order) : new ArrayDeque<>();
    this.descriptor = new ListStateDescriptor<>(name, PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO);
    this.state = backend.getPartitionedState(VoidNamespace.INSTANCE, VoidNamespaceSerializer.INSTANCE, descriptor);
    read(order);
  }

  private long reach(byte[] frame) {
    return alone ? Frames.at(frame) : Frames.reach(frame);
  }

  private long place(byte[] frame) {
    return alone ? Frames.LAST : Frames.place(frame);
  }

  /** Whether `frame` comes before what has this reach and place. */
  boolean precedes(byte[] frame, long reach, long place) {
    long own = reach(frame);
    return own < reach || own == reach && place(frame) < place;
  }

  boolean isEmpty() {
    return queue.isEmpty();
  }

  int size() {
    return queue.size();
  }

  void add(String key, byte[] frame) {
    queue.add(new Held(key, frame, turn++));
  }

  /** The first in the queue. */
  byte[] first() {
    return queue.element().frame();
  }

  /** All of them. */
  List<byte[]> frames() {
    return queue.stream().map(Held::frame).toList();
  }

  /** Gives the first in the queue to `next`, as of `port`. */
  void release(int port, Taker next) throws Exception {
    Held first = queue.remove();
    next.take(port, first.key(), first.frame());
  }

  /** Takes a record with its port and key. */
  interface Taker {
    void take(int port, String key, byte[] frame) throws Exception;
  }

  /** Write the queue to keyed state: every record behind its turn. */
  void write() throws Exception {
    for (String key : written) {
      backend.setCurrentKey(key);
      state.clear();
    }
    written.clear();
    for (Held held : queue) {
      byte[] entry = new byte[8 + held.frame().length];
      Frames.put(entry, Frames.putLong(entry, 0, held.turn()), held.frame());
      backend.setCurrentKey(held.key());
      state.add(entry);
      written.add(held.key());
    }
  }

  /** Read what was written, perhaps by several tasks: a turn says nothing about those of another. */
  private void read(Comparator<Held> order) throws Exception {
    List<Held> entries = new ArrayList<>();
    backend.applyToAllKeys(
        VoidNamespace.INSTANCE,
        VoidNamespaceSerializer.INSTANCE,
        descriptor,
        (key, list) -> list.get().forEach(entry -> entries.add(entry(key, entry))));
    entries.sort(order);
    for (Held held : entries) {
      add(held.key(), held.frame());
      written.add(held.key());
    }
  }

  private static Held entry(String key, byte[] bytes) {
    return new Held(key, Arrays.copyOfRange(bytes, 8, bytes.length), Frames.getLong(bytes, 0));
  }
}
