package millrace;

import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import org.apache.flink.api.common.TaskInfo;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeutils.base.LongSerializer;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.runtime.state.KeyGroupRange;
import org.apache.flink.runtime.state.KeyGroupRangeAssignment;
import org.apache.flink.runtime.state.KeyedStateBackend;

/**
 * Records for whose keys nothing else has come yet, in a pool for each key group. Pools are written to keyed state at a
 * checkpoint, chunk by chunk, so that they go where their keys go when a job is scaled.
 */
final class Waiting {
  private static final Pool.Sizes SIZES = new Pool.Sizes(4 << 10, 1 << 20, 64 << 10);

  private final KeyedStateBackend<String> backend;
  private final ValueStateDescriptor<byte[]> descriptor =
      new ValueStateDescriptor<>("waiting", PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO);
  private final KeyOf keyOf;
  private final long waitMs;
  private final long ttlMs;
  private final int groups;
  private final int start;
  private final Pool[] pools;
  private final Dues dues = new Dues();

  /** For each pool a key of its group: Flink keeps state by key, and chunks are of none. */
  private final String[] owners;

  /** `waitMs`, `ttlMs`: for how much event time a record waits, and for how much time at most (0: any). */
  Waiting(KeyedStateBackend<String> backend, TaskInfo task, KeyOf keyOf, long waitMs, long ttlMs) throws Exception {
    this.backend = backend;
    this.keyOf = keyOf;
    this.waitMs = waitMs;
    this.ttlMs = ttlMs;
    this.groups = task.getMaxNumberOfParallelSubtasks();
    KeyGroupRange range =
        KeyGroupRangeAssignment.computeKeyGroupRangeForOperatorIndex(
            groups, task.getNumberOfParallelSubtasks(), task.getIndexOfThisSubtask());
    this.start = range.getStartKeyGroup();
    this.pools = new Pool[range.getNumberOfKeyGroups()];
    this.owners = new String[pools.length];
    Arrays.setAll(pools, i -> new Pool(SIZES));
    for (int i = 0, named = 0; named < owners.length; i++) {
      int pool = pool(("waiting-" + i).hashCode());
      if (pool >= 0 && pool < owners.length && owners[pool] == null) {
        owners[pool] = "waiting-" + i;
        named++;
      }
    }
    read();
  }

  long waitMs() {
    return waitMs;
  }

  void add(String key, byte[] frame) {
    int hash = key.hashCode();
    pools[pool(hash)].add(hash, frame, System.currentTimeMillis());
    if (waitMs > 0) {
      dues.add(Frames.at(frame) + waitMs, hash);
    }
  }

  /** The record of a key behind a zero, as a state has it, which waits no longer; null: there is none. */
  byte[] take(String key) {
    long place = find(key);
    if (place < 0) {
      return null;
    }
    Pool pool = pools[pool(key.hashCode())];
    byte[] state = Frames.waiting(pool.frame(place));
    pool.take(key.hashCode(), place);
    return state;
  }

  /** When a record has waited long enough, at the earliest; `Frames.LIVE`: none ever has. */
  long due() {
    return dues.isEmpty() ? Frames.LIVE : dues.first();
  }

  /** Whose record it is that has waited until `due()`; null: something else came for that one meanwhile. */
  String next() {
    long due = dues.first();
    int hash = dues.remove();
    Pool pool = pools[pool(hash)];
    long place = pool.find(hash, other -> pool.at(other) + waitMs == due);
    return place < 0 ? null : keyOf.getKey(pool.frame(place));
  }

  private long find(String key) {
    int hash = key.hashCode();
    Pool pool = pools[pool(hash)];
    return pool.find(hash, place -> keyOf.getKey(pool.frame(place)).equals(key));
  }

  private int pool(int hash) {
    return KeyGroupRangeAssignment.computeKeyGroupForKeyHash(hash, groups) - start;
  }

  /** Write what came since the last checkpoint. */
  void write() throws Exception {
    long now = System.currentTimeMillis();
    for (int i = 0; i < pools.length; i++) {
      String owner = owners[i];
      if (ttlMs > 0) {
        pools[i].expire(now - ttlMs);
      }
      pools[i].write((number, bytes) -> store(owner, number, bytes));
    }
  }

  private void store(String owner, long number, byte[] bytes) throws Exception {
    backend.setCurrentKey(owner);
    ValueState<byte[]> state = state(number);
    if (bytes == null) {
      state.clear();
    } else {
      state.update(bytes);
    }
  }

  private ValueState<byte[]> state(long number) throws Exception {
    return backend.getPartitionedState(number, LongSerializer.INSTANCE, descriptor);
  }

  private void read() throws Exception {
    state(0);
    List<Tuple2<String, Long>> found;
    try (var all = backend.<Long>getKeysAndNamespaces(descriptor.getName())) {
      found = all.sorted(Comparator.comparing(one -> one.f1)).toList();
    }
    for (Tuple2<String, Long> one : found) {
      backend.setCurrentKey(one.f0);
      pools[pool(one.f0.hashCode())].read(one.f1, state(one.f1).value());
    }
    if (waitMs > 0) {
      for (Pool pool : pools) {
        pool.forEach((hash, place) -> dues.add(pool.at(place) + waitMs, hash));
      }
    }
  }
}
