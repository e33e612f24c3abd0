package millrace;

import java.util.stream.Stream;
import org.apache.flink.api.common.state.KeyedStateStore;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.runtime.state.KeyedStateBackend;
import org.apache.flink.runtime.state.VoidNamespace;

/**
 * What keyed state has of the current key; not asked while it has nothing of any key. With a time to live, each access
 * goes on with a walk over the whole state, and where that is empty, over every key group anew.
 */
final class Kept {
  private final ValueState<byte[]> state;
  private boolean empty;

  Kept(KeyedStateBackend<String> backend, KeyedStateStore store, ValueStateDescriptor<byte[]> descriptor) {
    state = store.getState(descriptor);
    try (Stream<String> keys = backend.getKeys(descriptor.getName(), VoidNamespace.INSTANCE)) {
      empty = keys.findAny().isEmpty();
    }
  }

  byte[] value() throws Exception {
    return empty ? null : state.value();
  }

  void update(byte[] value) throws Exception {
    state.update(value);
    empty = false;
  }

  void clear() {
    if (!empty) {
      state.clear();
    }
  }
}
