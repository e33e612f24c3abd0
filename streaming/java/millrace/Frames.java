package millrace;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/**
 * Where things stand in a frame, the byte array that travels between the operators of a job: the twin of
 * schemas/frames.py, whose docstring has the layouts. Everything is little-endian.
 */
final class Frames {
  /** An event time or a timer that is not there. */
  static final long NONE = Long.MIN_VALUE;

  /** The watermark of a source that has read what there was at deployment: from then on nothing is held. */
  static final long LIVE = Long.MAX_VALUE - 1;

  static final int MAIN = 0;
  static final int SIDE = 1;
  static final int TIMER = 2;

  /** The place of a frame behind all that have one. */
  static final long LAST = Long.MAX_VALUE;

  private static final int SOURCE_HEADER = 40;
  private static final int ROW_HEADER = 28;
  private static final int OFFSET_BITS = 48;
  private static final VarHandle INT = MethodHandles.byteArrayViewVarHandle(int[].class, ByteOrder.LITTLE_ENDIAN);
  private static final VarHandle LONG = MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.LITTLE_ENDIAN);

  private Frames() {}

  static int getInt(byte[] bytes, int position) {
    return (int) INT.get(bytes, position);
  }

  static long getLong(byte[] bytes, int position) {
    return (long) LONG.get(bytes, position);
  }

  static int putInt(byte[] bytes, int position, int value) {
    INT.set(bytes, position, value);
    return position + Integer.BYTES;
  }

  static int putLong(byte[] bytes, int position, long value) {
    LONG.set(bytes, position, value);
    return position + Long.BYTES;
  }

  static int put(byte[] bytes, int position, byte[] value) {
    System.arraycopy(value, 0, bytes, position, value.length);
    return position + value.length;
  }

  /** Up to the next multiple of eight, where a state may start. */
  static int pad(int position) {
    return (position + 7) & ~7;
  }

  /** Event time of a source or row frame. */
  static long at(byte[] frame) {
    return getLong(frame, 0);
  }

  /** The event time by which a frame counts: of a source frame the newest of its partition so far. */
  static long reach(byte[] frame) {
    return getLong(frame, 8);
  }

  static void reach(byte[] frame, long reach) {
    putLong(frame, 8, reach);
  }

  /** What tells frames of the same reach apart: of a source frame its partition and offset. */
  static long place(byte[] frame) {
    return getLong(frame, 16);
  }

  static int partition(byte[] source) {
    return (int) (place(source) >>> OFFSET_BITS);
  }

  static long offset(byte[] source) {
    return place(source) & (1L << OFFSET_BITS) - 1;
  }

  static byte[] source(
      long at, long reach, int partition, long offset, long timestamp, byte[] key, byte[] value) {
    int size = SOURCE_HEADER + (key == null ? 0 : key.length) + (value == null ? 0 : value.length);
    byte[] frame = new byte[size];
    int p = putLong(frame, 0, at);
    p = putLong(frame, p, reach);
    p = putLong(frame, p, (long) partition << OFFSET_BITS | offset);
    p = putLong(frame, p, timestamp);
    p = putInt(frame, p, key == null ? -1 : key.length);
    p = putInt(frame, p, value == null ? -1 : value.length);
    if (key != null) {
      p = put(frame, p, key);
    }
    if (value != null) {
      put(frame, p, value);
    }
    return frame;
  }

  /** The Kafka record key of a source frame as text; null where the record has none. */
  static String sourceKey(byte[] source) {
    int length = getInt(source, 32);
    return length < 0 ? null : text(source, SOURCE_HEADER, length);
  }

  /** The value of a source frame; null where the record has none. */
  static byte[] sourceValue(byte[] source) {
    int length = getInt(source, 36);
    return length < 0 ? null : Arrays.copyOfRange(source, source.length - length, source.length);
  }

  static String rowKey(byte[] row) {
    return text(row, ROW_HEADER, getInt(row, 24));
  }

  /** The state of a key for which nothing but `frame` has come: a zero, then the frame. */
  static byte[] waiting(byte[] frame) {
    byte[] state = new byte[1 + frame.length];
    System.arraycopy(frame, 0, state, 1, frame.length);
    return state;
  }

  /** UTF-8, or Latin-1 where the bytes are none, so that no two keys become one. */
  private static String text(byte[] bytes, int start, int length) {
    String text = new String(bytes, start, length, StandardCharsets.UTF_8);
    if (text.indexOf('\uFFFD') < 0) {
      return text;
    }
    byte[] again = text.getBytes(StandardCharsets.UTF_8);
    return Arrays.equals(again, 0, again.length, bytes, start, start + length)
        ? text
        : new String(bytes, start, length, StandardCharsets.ISO_8859_1);
  }
}
