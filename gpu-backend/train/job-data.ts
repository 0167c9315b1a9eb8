import { join } from 'node:path';
import type { BaseModel } from './base-model.ts';
import { SampleMaker } from './chat-samples.ts';
import { DataError, type Measured, measureExamples, openExamples, type Selection, selectExamples } from './examples.ts';
import { FeatureStore } from './feature-store.ts';
import type { FineTuneHooks, FineTuneSpec } from './finetune-spec.ts';
import type { StageData } from './stage-data.ts';
import type { StagePlan } from './stage-plan.ts';

/** Examples and pictures of a job: each list is read once, pictures are encoded once as long as the tower stays the same. */
export class JobData {
  private readonly measured = new Map<number | 'validation', Measured>();
  private features: FeatureStore | undefined;

  constructor(
    private readonly spec: FineTuneSpec,
    private readonly hooks: FineTuneHooks,
  ) {}

  /** What each stage learns from. @throws DataError, DatasetError, the signal's reason */
  async selections(base: BaseModel, plans: readonly StagePlan[]): Promise<Selection[]> {
    const made: Selection[] = [];
    for (const plan of plans) {
      const selection = await selectExamples(await this.of(base, plan.stage.data), plan);
      for (const note of selection.notes)
        await this.say('warn', plans.length > 1 ? `Stage ${plan.index + 1}: ${note}` : note);
      made.push(selection);
    }
    if (this.spec.validation !== undefined) await this.of(base, 'validation');
    return made;
  }

  /**
   * Samples of a stage. Pictures are looked at before its first step as far as they can be kept, so that a broken one fails the
   * job at once.
   */
  async ofStage(base: BaseModel, plan: StagePlan): Promise<{ training: StageData; validation: StageData | undefined }> {
    const features = await this.featuresOf(base, plan);
    const make = async (which: number | 'validation'): Promise<StageData> => {
      const own = await this.of(base, which);
      const { store } = own;
      const samples = new SampleMaker(base, (reference) => store.readImage(reference), features);
      const selection = await selectExamples(own, plan);
      for (const entry of selection.entries) {
        if (this.hooks.signal?.aborted === true || features.isFull) break;
        const { images, line } = await store.get(entry);
        for (const reference of images) await samples.image(reference, line);
      }
      return { selection, sampleAt: async (entry) => await samples.make(await store.get(entry)) };
    };
    const before = features.encoded;
    const training = await make(plan.stage.data);
    const validation = this.spec.validation === undefined ? undefined : await make('validation');
    const encoded = features.encoded - before;
    if (encoded > 0)
      await this.say('info', `${encoded} pictures encoded by the vision tower; their features are kept.`);
    return { training, validation };
  }

  private async of(base: BaseModel, which: number | 'validation'): Promise<Measured> {
    const known = this.measured.get(which);
    if (known !== undefined) return known;
    const { spec, hooks } = this;
    const data = which === 'validation' ? spec.validation : spec.data[which];
    if (data === undefined) throw new DataError(`the job has no list of examples ${which}`);
    const store = await openExamples(data, which, {
      workDir: spec.workDir,
      leftOut: spec.leftOut,
      fetchImage: hooks.readImage,
      signal: hooks.signal,
    });
    const samples = new SampleMaker(base, (reference) => store.readImage(reference));
    const made = await measureExamples(store, samples, hooks.signal);
    this.measured.set(which, made);
    return made;
  }

  private async featuresOf(base: BaseModel, plan: StagePlan): Promise<FeatureStore> {
    if (this.features?.fits(base, plan.trainsVision) === true) return this.features;
    await this.features?.release();
    this.features = await FeatureStore.create(base, {
      threads: this.spec.threads ?? 1,
      asPixels: plan.trainsVision,
      dir: this.spec.featureDir ?? join(this.spec.workDir, 'features'),
    });
    return this.features;
  }

  private async say(level: 'info' | 'warn', message: string): Promise<void> {
    await this.hooks.onEvent?.(level, message);
  }

  async release(): Promise<void> {
    for (const { store } of this.measured.values()) await store.close();
    await this.features?.release();
  }
}
