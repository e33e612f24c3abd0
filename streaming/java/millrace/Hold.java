package millrace;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.runtime.state.KeyedStateBackend;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;

/**
 * Records that wait until what must be known before them has been read: one queue in the order of arrival. At a
 * checkpoint it is written to keyed state, so that it goes where its keys go when a job is scaled.
 */
final class Hold {
  private static final ListStateDescriptor<byte[]> HELD =
      new ListStateDescriptor<>("held", PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO);

  private final KeyedStateBackend<String> backend;
  private final ListState<byte[]> state;
  private final ArrayDeque<Held> queue = new ArrayDeque<>();

  /** Keys with records in keyed state, from the last checkpoint. */
  private final Set<String> written = new LinkedHashSet<>();

  private record Held(String key, byte[] frame) {}

  Hold(KeyedStateBackend<String> backend) throws Exception {
    this.backend = backend;
    this.state = backend.getPartitionedState(VoidNamespace.INSTANCE, VoidNamespaceSerializer.INSTANCE, HELD);
    read();
  }

  boolean isEmpty() {
    return queue.isEmpty();
  }

  int size() {
    return queue.size();
  }

  void add(String key, byte[] frame) {
    queue.add(new Held(key, frame));
  }

  /** Event time of the first in the queue. */
  long at() {
    return Frames.at(queue.element().frame());
  }

  /** Gives the first in the queue to `batch`. */
  void release(Batch batch) {
    Held first = queue.remove();
    batch.add(Frames.MAIN, first.key(), first.frame());
  }

  /** Write the queue to keyed state: every record behind its place in the queue. */
  void write() throws Exception {
    for (String key : written) {
      backend.setCurrentKey(key);
      state.clear();
    }
    written.clear();
    long place = 0;
    for (Held held : queue) {
      byte[] entry = new byte[8 + held.frame().length];
      Frames.put(entry, Frames.putLong(entry, 0, place++), held.frame());
      backend.setCurrentKey(held.key());
      state.add(entry);
      written.add(held.key());
    }
  }

  private void read() throws Exception {
    record Entry(String key, byte[] bytes) {}
    List<Entry> entries = new ArrayList<>();
    backend.applyToAllKeys(
        VoidNamespace.INSTANCE,
        VoidNamespaceSerializer.INSTANCE,
        HELD,
        (key, list) -> list.get().forEach(bytes -> entries.add(new Entry(key, bytes))));
    entries.sort(Comparator.comparingLong(entry -> Frames.getLong(entry.bytes(), 0)));
    for (Entry entry : entries) {
      add(entry.key(), Arrays.copyOfRange(entry.bytes(), 8, entry.bytes().length));
      written.add(entry.key());
    }
  }
}
