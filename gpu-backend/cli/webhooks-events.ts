import { InvalidArgumentError, Option } from 'commander';
import { WebhookEventFilter } from '../../shared/contract/webhooks.ts';

/** `--events fine_tuning.job.*,batch.completed`. */
export function eventsOption(): Option {
  return new Option(
    '--events <list>',
    'types and patterns such as fine_tuning.job.*, comma-separated (default: all)',
  ).argParser((text) =>
    text.split(',').map((name) => {
      const filter = WebhookEventFilter.safeParse(name.trim());
      if (!filter.success) throw new InvalidArgumentError(`Expected some of ${WebhookEventFilter.options.join(', ')}.`);
      return filter.data;
    }),
  );
}
