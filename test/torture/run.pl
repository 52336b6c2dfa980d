# The long form: one torture after the other, each with its own seed, until the time is up.
#
# Environment: SEED (of the first), MINUTES (in total), SECONDS_EACH, WRITERS, PROMOTIONS (of each).
use strict;
use warnings;

use SyncExt::Torture;
use Test::More;
use Time::HiRes qw(time);

$| = 1;
my $seed = $ENV{SEED};
my $each = $ENV{SECONDS_EACH} // 180;
my $end = time + ($ENV{MINUTES} // 5) * 60;
my $out = Test::More->builder->output;

sub report { print $out "# $_\n" foreach map { split /\n/, $_ // '' } @_ }

do
{
	my $torture = SyncExt::Torture->new(seed => $seed, seconds => $each, writers => $ENV{WRITERS} // 4,
		promotions => $ENV{PROMOTIONS} // 1, say => \&report);
	my @wrong = eval { $torture->run };

	push @wrong, split /\n/, $@ if $@;
	report(map { "$_: $torture->{acts}{$_}" } sort keys %{ $torture->{acts} });
	ok(!@wrong, sprintf 'seed %d: %d committed changes of records, %d effects, %d keys refused', $seed, map { $_ // 0 } @$torture{qw(changes effects refused)});
	if (@wrong)
	{
		my %seen;

		report(@wrong > 60 ? (@wrong[ 0 .. 59 ], '… and ' . (@wrong - 60) . ' more') : @wrong);
		report($torture->try('TABLE sync._unfinished'), $torture->try('SELECT * FROM sync.inbox_status'), $torture->try('SELECT * FROM sync.health()'));
		report(SyncExt::Torture::Judge::dossier($torture, $_))
		  foreach grep { $_ && !$seen{$_}++ && keys %seen <= 4 } map { /([0-9a-f]{8}-[0-9a-f-]{27})/ ? $1 : undef } @wrong;
	}
	$torture->tell('stop');
	$torture->node->stop('immediate');
	$torture->{standby}->teardown_node if $torture->{standby} && $torture->{standby} != $torture->node;
	$torture->sandbox->stop;
	$seed++;
} while (time < $end);
done_testing();
