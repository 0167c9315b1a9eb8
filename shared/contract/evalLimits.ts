const MIB = 1024 ** 2;

/** What bounds an evaluation through the API: the part `evals` of `LIMITS`. */
export const EVAL_LIMITS = {
  maxPerTenant: 1_000,
  maxNameChars: 256,
  /** Testing criteria of one evaluation, and graders within a formula. */
  maxCriteria: 32,
  maxFormulaGraders: 16,
  maxFormulaChars: 1_024,
  /** One text of a template, and the references and texts between them that it may be made of. */
  maxTemplateChars: 65_536,
  maxTemplatePieces: 256,
  maxPromptMessages: 64,
  maxLabels: 100,
  maxLabelChars: 256,
  /** A schema of items as JSON, schemas within each other, and steps in which one item is checked. */
  maxSchemaBytes: 65_536,
  maxSchemaDepth: 32,
  maxSchemaSteps: 100_000,
  /** Lines of `file_content`, and of a file with the purpose `evals`. */
  maxInlineItems: 1_000,
  maxItems: 50_000,
  maxFileBytes: 200 * MIB,
  maxLineBytes: 20 * MIB,
  /** One line (item and given answer) as JSON, pictures in data URLs not counted: it is kept with its result. */
  maxItemBytes: 65_536,
  /** All text of one question, once its templates are filled in: likewise. */
  maxPromptChars: 262_144,
  maxBenchmarkFiles: 64,
  /** Orders of pictures in which a question is asked. */
  maxVariants: 24,
  /** Runs of one tenant that have not ended. */
  maxPendingRuns: 20,
  /** Answers that evaluations have under way at once in one backend, all runs together: runs take turns. */
  itemsInFlight: 16,
  /** Runs that a backend works on at once; each asks for its share of the answers above. */
  runsAtOnce: 4,
  /** Where more wait than a backend works on, a run gives its place to the next after so long, and goes on when its turn comes again. */
  turnMs: 60_000,
  /** A run that ended without a report of the answers it has is given to a backend for its report after so long: who worked on it may be writing it. */
  owedReportAfterMs: 20_000,
  /** To so many backends, one after the other. */
  maxReportTries: 3,
  /** Each has so long for it. */
  owedReportLeaseMs: 10 * 60_000,
  /** Questions of each skill of the benchmark `skills`. */
  maxPerSkill: 2_000,
  /** A benchmark's files are read, and its questions laid out, within this time and memory. */
  layoutMs: 30 * 60_000,
  layoutMemoryBytes: 2 * 1024 * MIB,
  /** Bad lines of a data file that a run's error names; the others are counted. */
  maxNamedLines: 10,
  /** Results go to the edge so many at once, so many bytes at once, and after so long. */
  maxResultsPerCall: 64,
  maxResultBytes: MIB,
  tellEveryMs: 500,
  /** A report, as JSON or HTML. */
  maxReportBytes: 64 * MIB,
  /** Answers of each of two runs that are compared, and the time that it may take. */
  maxComparedAnswers: 100_000,
  compareMs: 60_000,
  /** Links to reports, which need no key, work so long at least, and at most an hour longer. */
  reportLinkMs: 24 * 3_600_000,
  /** Results of a run are kept so long after its end; then the run deletes itself. */
  keepMs: 180 * 24 * 3_600_000,
} as const;
