package millrace;

import java.util.Arrays;

/** What Python answered to a batch, read in place. The answer is checked once, as a whole. */
final class Response {
  private final byte[] bytes;
  private final int outputs;
  private final int keys;
  private final int tags;
  private final int timers;
  private final int states;

  /** Throws where `bytes` is no response to a request with `keys` distinct keys. */
  Response(byte[] bytes, int keys) {
    if (bytes == null || bytes.length < 8) {
      throw new IllegalStateException("found no response in what Python returned, expected bytes");
    }
    this.bytes = bytes;
    this.outputs = Frames.getInt(bytes, 0);
    this.keys = Frames.getInt(bytes, 4);
    this.tags = 8 + 4 * outputs + 4 * this.keys;
    this.timers = Frames.pad(tags + outputs);
    this.states = timers + 8 * this.keys;
    if (this.keys != keys) {
      throw new IllegalStateException("found states for " + this.keys + " keys, expected " + keys);
    }
    long end = states;
    boolean whole = outputs >= 0;
    for (int i = 0; whole && end <= bytes.length && i < outputs + keys; i++) {
      whole = i >= outputs || length(i) >= 0;
      end += size(i);
    }
    if (!whole || end != bytes.length) {
      throw new IllegalStateException("found a response of " + bytes.length + " bytes, expected " + end);
    }
  }

  /** Lengths of the outputs, then of the states. */
  private int length(int i) {
    return Frames.getInt(bytes, 8 + 4 * i);
  }

  /** How many bytes are there: of a log, the length says it with another sign. */
  private long size(int i) {
    long length = length(i);
    return length < -1 ? -length : Math.max(length, 0);
  }

  /**
   * Calls `each` with every key's new state (null: unchanged, empty: cleared), or with what came for it since, and with
   * its timer.
   */
  void forEachKey(KeyVisitor each) throws Exception {
    int p = states;
    for (int i = 0; i < keys; i++) {
      int length = length(outputs + i);
      int end = p + (int) size(outputs + i);
      byte[] state = length == -1 ? null : Arrays.copyOfRange(bytes, p, end);
      p = end;
      each.visit(i, state, length < -1, Frames.getLong(bytes, timers + 8 * i));
    }
  }

  /** Calls `each` with the tag and the bounds of every output in `bytes`. */
  void forEachOutput(OutputVisitor each) {
    int p = states;
    for (int i = 0; i < keys; i++) {
      p += (int) size(outputs + i);
    }
    for (int i = 0; i < outputs; i++) {
      int end = p + length(i);
      each.visit(bytes[tags + i], bytes, p, end);
      p = end;
    }
  }

  /** Takes what one key got back. */
  interface KeyVisitor {
    void visit(int key, byte[] state, boolean isLog, long timer) throws Exception;
  }

  /** Takes one output. */
  interface OutputVisitor {
    void visit(int tag, byte[] bytes, int start, int end);
  }
}
