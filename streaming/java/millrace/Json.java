package millrace;

import java.io.IOException;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactoryBuilder;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.StreamReadConstraints;

/**
 * Reads one top-level field of a JSON object. Whatever cannot be read is absent: it is Python that decodes a record,
 * and makes a dead letter of what is none. As there, the last of several fields of one name counts.
 */
final class Json {
  private static final JsonFactory FACTORY =
      new JsonFactoryBuilder()
          .disable(JsonFactory.Feature.INTERN_FIELD_NAMES)
          .disable(JsonFactory.Feature.FAIL_ON_SYMBOL_HASH_OVERFLOW)
          .streamReadConstraints(anything())
          .build();

  private Json() {}

  /** Numbers of any length, as the decoder in Python takes them. */
  private static StreamReadConstraints anything() {
    int most = Integer.MAX_VALUE;
    return StreamReadConstraints.builder().maxNumberLength(most).maxNestingDepth(most).maxStringLength(most).build();
  }

  /** A text field, null where there is none. */
  static String text(byte[] value, String field) {
    return read(value, field, null, p -> p.currentToken() == JsonToken.VALUE_STRING ? p.getText() : null);
  }

  /** An integer field, `Frames.NONE` where there is none. */
  static long integer(byte[] value, String field) {
    return read(value, field, Frames.NONE, Json::integer);
  }

  private static Long integer(JsonParser parser) throws IOException {
    switch (parser.currentToken()) {
      case VALUE_NUMBER_INT:
        return parser.getLongValue();
      case VALUE_NUMBER_FLOAT: // 1e3 is an integer to the decoder in Python too
        double number = parser.getDoubleValue();
        return number == Math.rint(number) && Math.abs(number) < 1L << 53 ? (long) number : Frames.NONE;
      default:
        return Frames.NONE;
    }
  }

  private static <T> T read(byte[] value, String field, T absent, Reader<T> reader) {
    if (value == null) {
      return absent;
    }
    try (JsonParser parser = FACTORY.createParser(value)) {
      if (parser.nextToken() != JsonToken.START_OBJECT) {
        return absent;
      }
      T found = absent;
      while (parser.nextToken() == JsonToken.FIELD_NAME) {
        boolean wanted = parser.currentName().equals(field);
        parser.nextToken();
        if (wanted) {
          found = reader.read(parser);
        }
        parser.skipChildren();
      }
      return found;
    } catch (IOException | RuntimeException unreadable) { // any bytes may come here, and none may stop the job
      return absent;
    }
  }

  /** Takes a value off the parser. */
  private interface Reader<T> {
    T read(JsonParser parser) throws IOException;
  }
}
