import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import org.flywaydb.core.Flyway;
import org.flywaydb.core.api.MigrationInfo;

/** A resident Flyway: a JSON request a line on standard input, a JSON answer a line on standard output. */
public class FlywayServer {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        PrintStream answers = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        System.setOut(System.err);
        BufferedReader requests =
            new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            JsonNode request = JSON.readTree(line);
            ObjectNode answer = JSON.createObjectNode();
            try {
                Map<String, String> parameters = new HashMap<>();
                request.get("parameters").fields()
                    .forEachRemaining(field -> parameters.put(field.getKey(), field.getValue().asText()));
                Flyway flyway = Flyway.configure().configuration(parameters).load();
                run(flyway, request.get("command").asText(), answer);
                answer.put("ok", true);
            } catch (Throwable error) {
                answer.put("ok", false);
                answer.put("error", String.valueOf(error.getMessage()));
                answer.put("kind", error.getClass().getSimpleName());
            }
            answers.println(JSON.writeValueAsString(answer));
        }
    }

    private static void run(Flyway flyway, String command, ObjectNode answer) {
        switch (command) {
            case "migrate": answer.put("executed", flyway.migrate().migrationsExecuted); break;
            case "validate": flyway.validate(); break;
            case "repair": flyway.repair(); break;
            case "baseline": flyway.baseline(); break;
            case "clean": flyway.clean(); break;
            case "info": info(flyway.info().all(), answer.putArray("migrations")); break;
            default: throw new IllegalArgumentException(command);
        }
    }

    private static void info(MigrationInfo[] migrations, ArrayNode rows) {
        for (MigrationInfo migration : migrations) {
            ArrayNode row = rows.addArray();
            row.add(migration.getInstalledRank());
            row.add(migration.getVersion() == null ? null : migration.getVersion().toString());
            row.add(migration.getDescription());
            row.add(migration.getType().toString());
            row.add(migration.getState().getDisplayName());
            row.add(migration.getChecksum());
        }
    }
}
