package millrace;

import org.apache.flink.api.java.functions.KeySelector;

/** The key of a frame: `row` of a row frame; of a source frame, `record` or `json` (a text field of its value). */
final class KeyOf implements KeySelector<byte[], String> {
  private static final long serialVersionUID = 1;
  private final String kind;
  private final String field;

  KeyOf(Job.Key key) {
    this.kind = key.kind();
    this.field = key.field();
  }

  @Override
  public String getKey(byte[] frame) {
    if (kind.equals("row")) {
      return Frames.rowKey(frame);
    }
    String key = kind.equals("record") ? Frames.sourceKey(frame) : null;
    if (key == null && !field.isEmpty()) {
      key = Json.text(Frames.sourceValue(frame), field);
    }
    return key == null ? "" : key; // a record without a key is a dead letter to be, and no stage may lose it
  }
}
