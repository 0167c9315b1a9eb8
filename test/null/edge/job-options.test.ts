import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { decideOptions } from '../../../edge/jobs/options.ts';
import { type JobRow, showJob } from '../../../edge/store/jobs.ts';
import { ApiError } from '../../../shared/contract/errors.ts';
import { CreateJobRequest } from '../../../shared/contract/jobs.ts';
import type { ModelCard } from '../../../shared/contract/models.ts';
import { decideStages } from '../../../shared/contract/training.ts';

const card = {
  id: 'm',
  contextTokens: 512,
  capabilities: { chat: true, fineTune: ['projector', 'lora', 'full'] },
} as unknown as ModelCard;

const decide = (mantis: unknown, rest: Record<string, unknown> = {}, offered = card) =>
  decideOptions(
    CreateJobRequest.parse({
      model: 'm',
      training_file: 'file-a',
      ...rest,
      method: { type: 'supervised', supervised: { mantis } },
    }),
    { card: offered, id: 'm' },
  );

function refusals(run: () => unknown): (string | null)[] {
  try {
    run();
  } catch (error) {
    if (error instanceof ApiError)
      return (error.options.details ?? [{ param: error.options.param ?? null }]).map(({ param }) => param);
    throw error;
  }
  throw new Error('expected a refusal');
}

describe('options of a job', () => {
  it('without any are one stage of adapters over three epochs, its batch by the number of examples', () => {
    const { stages, mantis, hyperparameters, data } = decide({});
    assert.deepEqual(stages, [
      {
        train: 'lora',
        lora: { r: 16, alpha: 32 },
        n_epochs: 3,
        batch_size: null,
        learning_rate_multiplier: 1,
        data: 0,
      },
    ]);
    assert.equal(mantis.stage, 'lora');
    assert.equal(hyperparameters.batch_size, 'auto');
    assert.deepEqual(data, [{ id: 'file-a', param: 'training_file' }]);
    assert.equal(decideStages(stages, [40])[0]?.batch_size, 5);
    assert.equal(decideStages(stages, [3])[0]?.batch_size, 1);
    assert.equal(decideStages(stages, [4000])[0]?.batch_size, 8);
  });

  it("take a list of stages, each by its own words, then the job's, then the defaults", () => {
    const { stages, mantis, data, hyperparameters } = decide(
      {
        packing: true,
        base_precision: 'int8',
        stages: [
          { train: 'projector', training_file: 'file-captions', n_epochs: 1, learning_rate: 1e-3 },
          { train: 'lora', lora: { r: 8, alpha: 8 }, packing: false },
        ],
      },
      { hyperparameters: { n_epochs: 2, batch_size: 4 } },
    );
    assert.deepEqual(
      stages.map((stage) => [stage.train, stage.n_epochs, stage.batch_size, stage.packing, stage.data, stage.lora?.r]),
      [
        ['projector', 1, 4, true, 1, undefined],
        ['lora', 2, 4, false, 0, 8],
      ],
    );
    assert.equal(stages[1]?.base_precision, 'int8');
    assert.equal(mantis.stage, 'lora');
    assert.deepEqual(
      data.map(({ id, param }) => [id, param]),
      [
        ['file-a', 'training_file'],
        ['file-captions', 'method.supervised.mantis.stages[0].training_file'],
      ],
    );
    assert.deepEqual(hyperparameters, { n_epochs: 2, batch_size: 4, learning_rate_multiplier: 1 });
  });

  it('let a projector that was just aligned learn on beside adapters, unless they say otherwise', () => {
    const rates = (last: object) =>
      decide({ stages: [{ train: 'projector' }, { train: 'lora', ...last }] }).stages.map((stage) => stage.part_rates);
    assert.deepEqual(rates({}), [undefined, { projector: 1 }]);
    assert.deepEqual(rates({ part_rates: { projector: 0 } }), [undefined, { projector: 0 }]);
    assert.deepEqual(rates({ part_rates: { adapters: 2 } }), [undefined, { adapters: 2, projector: 1 }]);
    assert.equal(decide({ stage: 'lora' }).stages[0]?.part_rates, undefined);
  });

  it("mean the paper's two stages by its preset, and whatever is said beside it wins", () => {
    const { stages, mantis } = decide({ preset: 'mantis' });
    assert.deepEqual(
      stages.map((stage) => [stage.train, stage.n_epochs, stage.batch_size, stage.learning_rate]),
      [
        ['projector', 1, 256, 1e-3],
        ['full', 1, 128, 1e-5],
      ],
    );
    assert.equal(mantis.stage, 'full');
    const own = decide({ preset: 'mantis', max_grad_norm: 5 }, { hyperparameters: { batch_size: 2 } });
    assert.deepEqual(
      own.stages.map((stage) => [stage.max_grad_norm, stage.batch_size]),
      [
        [5, 2],
        [5, 2],
      ],
    );
  });

  it('are refused together where they contradict themselves', () => {
    assert.deepEqual(
      refusals(() =>
        decide({ stage: 'full', lora: { r: 4, alpha: 4 }, base_precision: 'int4', early_stopping: { patience: 1 } }),
      ),
      [
        'method.supervised.mantis.lora',
        'method.supervised.mantis.base_precision',
        'method.supervised.mantis.early_stopping',
      ],
    );
    assert.deepEqual(
      refusals(() => decide({ stage: 'lora', stages: [{ train: 'lora' }, { train: 'full' }] })),
      ['method.supervised.mantis.stage', 'method.supervised.mantis.stages[0].train'],
    );
    assert.deepEqual(
      refusals(() => decide({ preset: 'mantis', stage: 'lora' })),
      ['method.supervised.mantis.preset'],
    );
    assert.deepEqual(
      refusals(() => decide({ preset: 'mantis-small', stages: [{ train: 'lora' }] })),
      ['method.supervised.mantis.preset'],
    );
    const frozen = { ...card, capabilities: { chat: true, fineTune: ['projector'] } } as unknown as ModelCard;
    assert.deepEqual(
      refusals(() => decide({}, {}, frozen)),
      ['method.supervised.mantis.stage'],
    );
  });

  it('are shown so that they can be sent again', () => {
    const row = { hyperparameters: '{}', result_files: '[]', error: null, metadata: null, status: 'queued' };
    for (const asked of [
      { preset: 'mantis-small' },
      { stages: [{ train: 'projector' }, { train: 'lora' }] },
    ] as const) {
      const { mantis, stages } = decide(asked);
      const shown = showJob({ ...row, mantis: JSON.stringify(mantis) } as unknown as JobRow).method.supervised.mantis;
      assert.deepEqual(decide(shown).stages, stages);
    }
    const { mantis } = decide({});
    const shown = showJob({ ...row, mantis: JSON.stringify(mantis) } as unknown as JobRow).method.supervised.mantis;
    assert.equal(shown.stage, 'lora');
  });
});
